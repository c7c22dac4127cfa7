"""Limits that a host can set: every one is an environment variable."""

import os

from admodels.errors import OptionError

__all__ = ["limit"]


def limit(name: str, default: float) -> float:
    """A limit's value: that of the environment variable, else the default.

    Raises:
        OptionError: the variable is set to something that is not a number above zero.
    """
    given = os.environ.get(name)
    if given is None:
        return default
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise OptionError(f"{name} is {given!r}; expected a number above 0. Set it to a valid value, or unset it.")
    return value
