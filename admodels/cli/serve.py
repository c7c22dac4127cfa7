"""The command `serve`."""

from typing import Annotated

import typer

import admodels
from admodels.cli.terminal import Device, say


def serve(
    model: Annotated[
        str, typer.Option(help="Of requests that name none: local:bolts, or owner/name@revision of the Hub.")
    ] = "",
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    device: Device = "auto",
) -> None:
    """Score pictures that programs send by HTTP, without the page.

    Example: python -m admodels serve --model local:bolts
    Then: curl --data-binary @part.png http://127.0.0.1:8000/v1/score
    """
    try:
        from admodels.serving.http.server import serve as run
    except ImportError as error:
        raise admodels.OptionError(
            f"the package {error.name} is missing, which a server needs: pip install 'admodels[serve]'"
        ) from error
    say(f"http://{host}:{port}/v1/score takes pictures; http://{host}:{port}/v1/docs describes it.")
    run(host, port, device=device, model=model)
