"""What a handler names is filled, and nothing else."""

import gradio as gr
import pytest

from demo.view.outputs import filling
from tests.conftest import client_of


@pytest.mark.parametrize("names", [[], ["a"], ["b"], ["b", "a"]])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_a_handler_fills_what_it_names(names, n_outputs):
    def handler(word: str) -> dict[str, str]:
        """Echo."""
        return {name: f"{name} {word}" for name in names if name in outputs}

    with gr.Blocks() as page:
        given = gr.Textbox()
        outputs = {name: gr.Textbox() for name in "ab"[:n_outputs]}
        gr.on([], **filling(handler, outputs), inputs=given, api_name="echo")
    try:
        _, url, _ = page.launch(prevent_thread_lock=True, server_port=None, quiet=True)
        answer = client_of(url).predict("x", api_name="/echo")
        values = [answer] if n_outputs == 1 else answer
        for name, value in zip(outputs, values, strict=True):
            if name in names:
                assert value == f"{name} x"
            else:  # as it is
                assert value["__type__"] == "update"
                assert "value" not in value
    finally:
        page.close()


def test_a_name_that_is_no_output_is_a_mistake():
    with pytest.raises(KeyError, match="typo"):
        filling(lambda: {"typo": 1}, {})["fn"]()
