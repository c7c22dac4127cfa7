"""What a visitor may ask of the server. Every limit is an environment variable, so that a host can set it."""

import os

from admodels import OptionError

DEFAULTS = {
    "ADMODELS_MAX_PICTURES": 5000,  # in a fit or an evaluation
    "ADMODELS_MAX_INSPECTED": 64,  # at a time in the Inspect tab
    "ADMODELS_MAX_FIT_MINUTES": 120,
    "ADMODELS_MAX_QUEUE": 16,  # fits and other heavy work, that which runs included
}


def limit(name: str) -> float:
    """A limit's value.

    Raises:
        OptionError: the variable is set to something that is not a number above zero.
    """
    given = os.environ.get(name)
    if given is None:
        return DEFAULTS[name]
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise OptionError(f"{name} is {given!r}; expected a number above 0. Set it anew, or leave it out.")
    return value


def check_number(n: int, name: str) -> None:
    """Refuse more pictures than a limit allows.

    Raises:
        OptionError: there are more.
    """
    most = limit(name)
    if n > most:
        raise OptionError(f"{n} pictures came; at most {most:.0f} at a time are taken here. Choose fewer.")
