"""Models behind HTTP: one request scores a picture. It needs the packages of the extra `serve`."""

from admodels.serving.http.routes import routes
from admodels.serving.http.service import Service
from admodels.serving.http.settings import Settings

__all__ = ["Service", "Settings", "routes"]
