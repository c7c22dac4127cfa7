"""What a visitor may ask of the server. Those of one picture or zip are the library's (`admodels.pictures.images`)."""

import os
import re

from admodels import LOCAL, OptionError
from admodels.limits import limit as library_limit
from admodels.pictures import SUFFIXES
from demo.state.server import on_space

DEFAULTS = {
    "ADMODELS_MAX_PICTURES": 5000,  # in a fit or an evaluation
    "ADMODELS_MAX_INSPECTED": 1000,  # at a time in the Inspect tab
    "ADMODELS_MAX_FIT_MINUTES": 120,
    "ADMODELS_MAX_QUEUE": 16,  # fits and other heavy work, that which runs included
    "ADMODELS_MAX_LINK_MIB": 200,  # of a model that a page's address asks for
    "ADMODELS_MAX_DISK_GIB": 16,  # uploads and saved models of all visitors of a shared server
    "ADMODELS_MAX_HUB_GIB": 8,  # on the disk of a shared server: models that were downloaded
    "ADMODELS_MAX_MODELS_GIB": 4,  # in memory, of all visitors of a shared server
}
PICTURE_TYPES = ["image", *sorted(SUFFIXES)]  # taken by an upload: not every system knows all of them as images
OF_THE_LIBRARY = (
    "ADMODELS_MAX_MEGAPIXELS",
    "ADMODELS_MAX_ZIP_PICTURES",
    "ADMODELS_MAX_ZIP_GIB",
    "ADMODELS_MAX_ZIP_RATIO",
)
UPLOAD, UPLOAD_DEFAULT, UPLOAD_ON_SPACE = "ADMODELS_MAX_UPLOAD", "2gb", "200mb"


def check_settings() -> None:
    """See that every environment variable can be used, before anybody comes.

    Raises:
        OptionError: one is set to what is no limit.
        StoreError: the models' folder cannot be read.
    """
    for name in DEFAULTS:
        limit(name)
    for name in OF_THE_LIBRARY:
        library_limit(name, 1)
    upload_limit()
    LOCAL.check_folder()


def upload_limit() -> str:
    """The largest upload, as Gradio takes it.

    Raises:
        OptionError: the variable is set to something else.
    """
    given = os.environ.get(UPLOAD, UPLOAD_ON_SPACE if on_space() else UPLOAD_DEFAULT)
    if not re.fullmatch(r"\s*0*[1-9][0-9]*\s*[kmgt]?b\s*", given, re.IGNORECASE):
        raise OptionError(
            f"{UPLOAD} is {given!r}; expected a size such as 500mb or 2gb. Set it to a valid value, or unset it."
        )
    return given.strip()


def limit(name: str) -> float:
    """A limit's value.

    Raises:
        OptionError: the variable is set to something that is not a number above zero.
    """
    return library_limit(name, DEFAULTS[name])


def check_number(n: int, name: str) -> None:
    """Refuse more pictures than a limit allows.

    Raises:
        OptionError: there are more.
    """
    most = limit(name)
    if n > most:
        raise OptionError(f"You selected {n} pictures; the limit is {most:.0f}. Choose fewer.")
