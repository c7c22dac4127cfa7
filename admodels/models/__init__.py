"""Models on disk and on the Hugging Face Hub."""

from admodels.models.card import LICENCES, Source
from admodels.models.downloads import keep_within, note_use
from admodels.models.format import read_folder, stated_options, write_folder
from admodels.models.hub import Hub, HubModel, Pulled, Pushed
from admodels.models.known_defects import KnownDefect
from admodels.models.references import PREFIX as HUB_PREFIX
from admodels.models.references import Reference, parse_reference
from admodels.models.store import LOCAL_PREFIX, ModelInfo, Store
from admodels.models.verification import Verification

__all__ = [
    "HUB_PREFIX",
    "LICENCES",
    "LOCAL_PREFIX",
    "Hub",
    "HubModel",
    "KnownDefect",
    "ModelInfo",
    "Pulled",
    "Pushed",
    "Reference",
    "Source",
    "Store",
    "Verification",
    "keep_within",
    "note_use",
    "parse_reference",
    "read_folder",
    "stated_options",
    "write_folder",
]
