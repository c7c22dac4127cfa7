"""What whoever runs a server can set: every one is an environment variable."""

import os
from dataclasses import dataclass
from typing import Self

from admodels.errors import OptionError
from admodels.limits import limit
from admodels.serving.models import MAX_MODEL_GIB, max_model_bytes

API_KEY, WORKERS = "ADMODELS_API_KEY", "ADMODELS_WORKERS"
DEFAULTS = {
    "ADMODELS_MAX_WAITING": 128,  # pictures that wait or are being scored; more are refused for now
    "ADMODELS_MAX_REQUEST_MIB": 64,  # of one request
}
MIN_KEY = 16  # characters: what cannot be guessed


@dataclass(frozen=True)
class Settings:
    """Of one server.

    Attributes:
        api_key: that every request but those for its health must bring; empty where none is needed.
        takes_hub: whether a request may name a model of the Hub, which is then downloaded.
        default_model: of requests that name none; empty where they have to.
    """

    api_key: str = ""
    device: str = "auto"
    takes_hub: bool = True
    default_model: str = ""
    max_waiting: int = DEFAULTS["ADMODELS_MAX_WAITING"]
    max_request_bytes: int = DEFAULTS["ADMODELS_MAX_REQUEST_MIB"] * 2**20
    max_model_bytes: int = MAX_MODEL_GIB * 2**30

    @classmethod
    def from_environment(cls, *, host: str, device: str = "auto", default_model: str = "") -> Self:
        """As the environment says.

        Args:
            host: where the server listens. Without a key only this machine's programs may have models downloaded.

        Raises:
            OptionError: a variable has a value that cannot be used.
        """
        api_key = os.environ.get(API_KEY, "")
        if api_key and (len(api_key) < MIN_KEY or not (api_key.isascii() and api_key.isprintable())):
            raise OptionError(
                f"{API_KEY} has {len(api_key)} characters; expected at least {MIN_KEY}, of printable ASCII. Make one "
                'with: python -c "import secrets; print(secrets.token_urlsafe(24))"'
            )
        found = {name: limit(name, default) for name, default in DEFAULTS.items()}
        return cls(
            api_key=api_key,
            device=device,
            takes_hub=bool(api_key) or is_loopback(host),
            default_model=default_model,
            max_waiting=max(int(found["ADMODELS_MAX_WAITING"]), 1),
            max_request_bytes=int(found["ADMODELS_MAX_REQUEST_MIB"] * 2**20),
            max_model_bytes=max_model_bytes(),
        )


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach it."""
    return host in ("localhost", "::1") or host.startswith("127.")


def n_workers() -> int:
    """Processes that serve side by side, by `ADMODELS_WORKERS`; 1 by default.

    Raises:
        OptionError: it is no whole number above 0.
    """
    given = os.environ.get(WORKERS, "1")
    if not (given.isascii() and given.isdecimal() and int(given) > 0):
        raise OptionError(f"{WORKERS} is {given!r}; expected a whole number above 0. Set it, or unset it.")
    return int(given)
