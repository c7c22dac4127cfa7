"""How long a push and a pull of a model of 20 MB take, beside copying as many bytes over the same loopback connection.

    python -m tests.measure_hub
"""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx
from huggingface_hub.utils import disable_progress_bars
from rich.console import Console

import admodels
from admodels import hub
from admodels.card import Source
from admodels.datasets import normal_images

from . import HUB

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "pa_brg02_rl"
N_ROUNDS = 7


def main() -> None:
    """Measure, print."""
    disable_progress_bars()
    os.environ["HF_TOKEN"] = "hf_owner"
    detector = admodels.create("padim_isvd", n_components=6, device="cpu").fit(normal_images(EXAMPLE))
    content = os.urandom(round(detector.model_mib * 2**20))
    seconds = {name: [] for name in ("copy there", "copy back", "push", "of it the card and files", "pull", "pull again")}
    for i in range(N_ROUNDS):
        digest = HUB.put(content)
        with httpx.Client() as client:
            address = f"{HUB.storage}/{digest}"
            seconds["copy there"].append(timed(lambda: client.put(address, content=content).raise_for_status()))
            seconds["copy back"].append(timed(lambda: client.get(address).raise_for_status()))
        # Another model each time: what is there already would not be sent again.
        name = f"owner/model-{i}"
        key = next(iter(detector.state_))
        detector.state_[key] = detector.state_[key] + 1e-6 * i
        seconds["push"].append(timed(lambda: admodels.push(detector, name)))
        with tempfile.TemporaryDirectory() as folder:
            written = timed(lambda: hub.write_model(detector, Path(folder), Source(), name))
        seconds["of it the card and files"].append(written)
        seconds["pull"].append(timed(lambda: admodels.pull(name, device="cpu")))
        seconds["pull again"].append(timed(lambda: admodels.pull(name, device="cpu")))
    console = Console()
    console.print(f"{len(content) / 1e6:.1f} MB, median of {N_ROUNDS}")
    for name, values in seconds.items():
        console.print(f"{name}: {1e3 * median(values):.0f} ms")


def timed(run) -> float:
    """Seconds."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
