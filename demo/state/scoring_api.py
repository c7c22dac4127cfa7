"""The HTTP interface for programs, beside the page and on its port."""

import os

from starlette.routing import BaseRoute

import admodels
from admodels.serving.http import Service, Settings
from admodels.serving.http import routes as routes_of
from demo.state.cores import CORES
from demo.state.server import device_name, is_shared


def routes() -> list[BaseRoute]:
    """None on a server that visitors share, unless it asks for a key: these are the models of the machine, not theirs.

    Raises:
        OptionError: a setting cannot be used.
    """
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    settings = Settings.from_environment(host=host, device=device_name())
    if is_shared() and not settings.api_key:
        return []
    return routes_of(Service(admodels.LOCAL, admodels.HUB, settings, CORES.shared))
