"""Models for other programs: exported files, the runtimes that score them, the page without a server."""

from admodels.deploy.exporting import Exported, write_onnx
from admodels.deploy.onnx_file import OnnxFile, missing_packages, read
from admodels.deploy.page import Page, build_page

__all__ = ["Exported", "OnnxFile", "Page", "build_page", "missing_packages", "read", "write_onnx"]
