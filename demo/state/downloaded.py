"""Models of the Hub on a shared server's disk: those that nobody uses make room for others."""

from collections.abc import Collection

from huggingface_hub.constants import is_offline_mode

from admodels import OptionError
from admodels.models import keep_within
from demo.state.limits import limit
from demo.state.server import is_shared

LIMIT = "ADMODELS_MAX_HUB_GIB"


def make_room(in_use: Collection[str]) -> None:
    """Delete downloaded models where they take more than they may. They can be downloaded again.

    On a server of one's own nothing is deleted, and nothing where there is no Hub to have it from.

    Args:
        in_use: commits of the models that visitors use.

    Raises:
        OptionError: those that are used, or were downloaded just now, take more than all of them may.
    """
    if not is_shared() or is_offline_mode():
        return
    most = limit(LIMIT)
    held = keep_within(most * 2**30, in_use) / 2**30
    if held > most:
        raise OptionError(
            f"The models of the Hub that visitors use take {held:.1f} GiB of this server's disk, and may take {most:g} "
            "GiB. Nothing was changed. Try again in a quarter of an hour."
        )
