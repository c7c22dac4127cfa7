"""What the API page and MCP say of each parameter of the endpoints: a description and an example.

Left to itself, Gradio takes types and names from the page's components, no description, and examples that fit nothing.
"""

from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.utils import get_function_description

# By the parameter's name, whatever the endpoint; for the others the component's own are right.
EXAMPLES = {
    "method": "padim_isvd",
    "false_alarm_rate": 0.01,
    "options": '{"n_components": 32}',
    "seed": 0,
    "opacity": 0.7,
    "rate": 0.05,
    "value": 4.2,
    "name": "bolts",
    "new_name": "bolts-line-2",
    "kind": "json",
    "words": "bolt",
    "owner": "your-name",
    "reference": "hf-hub:owner/name",
    "repo_id": "your-name/bolts",
    "category": "hex bolt",
    "licence": "mit",
    "data_terms": "CC BY 4.0",
    "token": "hf_…",
}


def document(demo: gr.Blocks) -> None:
    """Describe the parameters of all public endpoints."""
    for endpoint in demo.fns.values():
        if endpoint.api_visibility != "public" or endpoint.fn is None:
            continue
        _, said, _ = get_function_description(endpoint.fn)
        for (name, description), component in zip(said.items(), endpoint.inputs, strict=False):
            _describe(component, name, description)
        for component in endpoint.outputs:
            component.label = component.label or type(component).__name__.lower()


def _describe(component: Component, name: str, description: str) -> None:
    component.label = component.label or name
    is_open = isinstance(component, gr.Dropdown) and component.allow_custom_value  # its choices are of the moment
    schema = {"type": "string"} if is_open else component.api_info()
    component.api_info = lambda: schema | {"additional_description": description}
    if name in EXAMPLES:
        example: Any = EXAMPLES[name]
        component.example_payload = lambda: example
        component.example_value = lambda: example
