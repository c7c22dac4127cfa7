"""Build the demo and launch it. Hugging Face Spaces starts this file."""

from demo.blocks import build, launch

demo = build()

if __name__ == "__main__":
    launch(demo)
