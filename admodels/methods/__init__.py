"""One paper, one file; `registry` lists them."""

from admodels.methods.registry import METHODS

__all__ = ["METHODS"]
