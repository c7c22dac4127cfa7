"""What went wrong with the Hub, in one sentence that says what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from admodels.errors import HubError
from admodels.models.references import Reference

PASSING = (408, 429, 500, 502, 503, 504)  # statuses that another try may not meet


@contextmanager
def explained(wanted: Reference | str | None, done: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one sentence; a token is in none of them."""
    name = str(wanted) if wanted is not None else "the Hub"
    try:
        yield
    except GatedRepoError as error:
        raise HubError(f"{name} is gated: ask for access on its page, then log in with that account.") from error
    except RevisionNotFoundError as error:
        raise HubError(f"{name}: there is no such revision. Leave it out for the newest one.") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{name} was not found: it does not exist, or it is private and you are not logged in with an account "
            "that may see it."
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise HubError(
            f"{name} is not in the cache here, and the Hub cannot be reached (or HF_HUB_OFFLINE is set)."
        ) from error
    except HfHubHTTPError as error:
        raise HubError(f"{name} could not be {done}: {_reason(error)}") from error
    except Exception as error:
        # The client lets its HTTP library's own errors through, httpx in one release and httpx2 in another.
        if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
            raise
        raise HubError(f"{name}: the Hub cannot be reached ({type(error).__name__}). Try again later.") from error


def may_pass(error: HubError) -> bool:
    """Whether asking again later may help: too many requests, a server or a network that fails for now."""
    cause = error.__cause__
    if isinstance(cause, HfHubHTTPError):
        return _status(cause) in PASSING
    if isinstance(cause, OfflineModeIsEnabled) or is_offline_mode():
        return False
    return isinstance(cause, OSError) or type(cause).__module__.startswith("httpx")  # as `explained` has it


def is_refusal(error: HubError) -> bool:
    """Whether this account may not do it, so that the next model would be refused as well."""
    cause = error.__cause__
    if not isinstance(cause, HfHubHTTPError) or isinstance(cause, RepositoryNotFoundError):  # one repository's matter
        return False
    return _status(cause) in (401, 403)


def seconds_asked(error: HubError) -> float:
    """How long the Hub asked to wait, in one of its headers; 0 where it did not say."""
    cause = error.__cause__
    if not isinstance(cause, HfHubHTTPError) or cause.response is None:
        return 0.0
    headers = cause.response.headers
    after = headers.get("Retry-After", "").strip()
    limited = re.search(r"\bt=(\d{1,6})", headers.get("RateLimit", ""))  # such as "api";r=0;t=55
    return float(after) if re.fullmatch(r"\d{1,6}", after) else float(limited[1]) if limited else 0.0


def _status(error: HfHubHTTPError) -> int:
    return error.response.status_code if error.response is not None else 0


def _reason(error: HfHubHTTPError) -> str:
    status = _status(error)
    known = {
        401: "you are not logged in, or the token is not valid any more. Log in, or set HF_TOKEN.",
        403: "this account may not write there. Use a token with write access to that owner.",
        409: "somebody changed the repository in the meantime. Check it, then push again.",
        412: "somebody changed the repository in the meantime. Check it, then push again.",
        413: "it is too large for the Hub.",
        429: "too many requests. Wait a few minutes.",
    }
    return known.get(status, f"the Hub answered with status {status}. Try again later.")
