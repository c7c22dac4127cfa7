"""The command `serve`."""

from typing import Annotated

import typer

import admodels
from admodels.cli.terminal import Device, say


def serve(
    model: Annotated[
        str, typer.Option(help="Of requests that name none: local:bolts, owner/name@revision of the Hub, or auto.")
    ] = "",
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    device: Device = "auto",
    ray: Annotated[
        bool,
        typer.Option("--ray", help="On Ray Serve: on the cluster of RAY_ADDRESS, or one started here."),
    ] = False,
    replicas: Annotated[str, typer.Option(help="With --ray: how many score, 2, or 1-4 as the load asks for.")] = "1",
) -> None:
    """Score pictures that programs send by HTTP, without the page.

    Example: python -m admodels serve --model local:bolts
    Then: curl --data-binary @part.png http://127.0.0.1:8000/v1/score
    """
    try:
        from admodels.serving.http.cluster import Replicas, serve_on_ray
        from admodels.serving.http.server import serve as run
    except ImportError as error:
        raise admodels.OptionError(
            f"the package {error.name} is missing, which a server needs: pip install 'admodels[serve]'"
        ) from error
    if not ray and replicas != "1":
        raise admodels.OptionError("--replicas goes with --ray. On one machine, set ADMODELS_WORKERS.")
    wanted = Replicas.parse(replicas)
    say(f"http://{host}:{port}/v1/score takes pictures; http://{host}:{port}/v1/docs describes it.")
    if ray:
        serve_on_ray(host, port, wanted, device=device, model=model)
    else:
        run(host, port, device=device, model=model)
