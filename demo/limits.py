"""What a visitor may ask of the server. Those of one picture or zip are the library's (`admodels.images`)."""

from admodels import OptionError, limits
from admodels.images import SUFFIXES

DEFAULTS = {
    "ADMODELS_MAX_PICTURES": 5000,  # in a fit or an evaluation
    "ADMODELS_MAX_INSPECTED": 1000,  # at a time in the Inspect tab
    "ADMODELS_MAX_FIT_MINUTES": 120,
    "ADMODELS_MAX_QUEUE": 16,  # fits and other heavy work, that which runs included
    "ADMODELS_MAX_LINK_MIB": 200,  # of a model that a page's address asks for
}
PICTURE_TYPES = ["image", *sorted(SUFFIXES)]  # taken by an upload: not every system knows all of them as images


def limit(name: str) -> float:
    """A limit's value.

    Raises:
        OptionError: the variable is set to something that is not a number above zero.
    """
    return limits.limit(name, DEFAULTS[name])


def check_number(n: int, name: str) -> None:
    """Refuse more pictures than a limit allows.

    Raises:
        OptionError: there are more.
    """
    most = limit(name)
    if n > most:
        raise OptionError(f"{n} pictures came; at most {most:.0f} at a time are taken here. Choose fewer.")
