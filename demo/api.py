"""What the API page and MCP say of each parameter of the endpoints: a description and an example.

Left to itself, Gradio takes types and names from the page's components, no description, and examples that fit nothing.
"""

from typing import Any

import gradio as gr
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


def describe(info: dict[str, Any], demo: gr.Blocks) -> dict[str, Any]:
    """What Gradio tells of the endpoints, with descriptions and examples; as `gr.Blocks.get_api_info` gives it.

    Args:
        demo: the blocks that the endpoints belong to.
    """
    functions = {f"/{fn.api_name}": fn for fn in demo.fns.values() if fn.fn is not None}
    for name, endpoint in info["named_endpoints"].items():
        fn = functions[name]
        _, said, _ = get_function_description(fn.fn)
        inputs, outputs = ([c for c in listed if not c.skip_api] for listed in (fn.inputs, fn.outputs))  # as Gradio
        for parameter, (called, description), component in zip(
            endpoint["parameters"], said.items(), inputs, strict=False
        ):
            is_open = isinstance(component, gr.Dropdown) and component.allow_custom_value
            schema = {"type": "string"} if is_open else parameter["type"]  # its choices are of the moment
            parameter["type"] = schema | {"additional_description": description}
            parameter["label"] = component.label or called
            python_type = "str" if is_open else parameter["python_type"]["type"]
            parameter["python_type"] = {"type": python_type, "description": description}
            if called in EXAMPLES:
                parameter["example_input"] = EXAMPLES[called]
        for value, component in zip(endpoint["returns"], outputs, strict=True):
            value["label"] = component.label or type(component).__name__.lower()
    return info
