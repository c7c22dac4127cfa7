"""What went wrong with the Hub, in one sentence that says what to do."""

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
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

MAX_SAID = 300  # characters of a server's own sentence
TOKEN_PATTERN = re.compile(r"hf_\w+")
WRITTEN = "written"  # what `explained` is told of a push
# Large files go to hosts of their own, which some networks block.
WITHOUT_XET = "If that goes on, set HF_HUB_DISABLE_XET=1: large files then go another way."
XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3}[\w ]{0,40})\)")  # as its client words it
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
            f"{name} was not found, or is not visible to this login: it does not exist, or it is private. Log in with "
            "an account that may see it; a login through an app sees only what that app created; a token may see more."
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise HubError(
            f"{name} is not in the cache here, and the Hub cannot be reached (or HF_HUB_OFFLINE is set)."
        ) from error
    except HfHubHTTPError as error:
        raise HubError(f"{name} could not be {done}: {reason(error)}") from error
    except Exception as error:
        if not is_of_network(error):
            raise
        if refused := XET_STATUS.search(str(error)):
            why = f"the hosts of large files answered with status {refused[1]}."
        else:
            why = f"the Hub cannot be reached ({type(error).__name__})."
        advice = _xet_advice() if isinstance(error, OSError) else ""  # as that client's are; other requests are httpx's
        raise HubError(f"{name} could not be {done}: {why} Try again later.{advice}") from error


@contextmanager
def uploading(wanted: Reference | str) -> Iterator[None]:
    """Around a commit alone: what its client raises there as if the caller were wrong, in one sentence too.

    They are refused or broken uploads of large files, and metadata of a card that the Hub does not take.
    """
    try:
        yield
    except HfHubHTTPError:  # some are a ValueError as well
        raise
    except (ValueError, RuntimeError) as error:
        cause = error.__cause__ or error
        if cause is error:
            more = "Try again."
        elif isinstance(cause, HfHubHTTPError) and isinstance(error, RuntimeError):
            more = reason(cause)
        else:
            more = f"({type(cause).__name__}) Try again later.{_xet_advice()}"
        raise HubError(
            f"{wanted} could not be {WRITTEN}, and is as it was: {_said(_without_hashes(str(error)))}. {more}"
        ) from cause


def is_of_network(error: BaseException | None) -> bool:
    """Whether no answer came; the client lets errors of its HTTP library through, of httpx or httpx2."""
    return isinstance(error, OSError) or type(error).__module__.startswith("httpx")


def may_pass(error: HubError) -> bool:
    """Whether asking again later may help: too many requests, a server or a network that fails for now."""
    cause = error.__cause__
    if isinstance(cause, HfHubHTTPError):
        return _status(cause) in PASSING
    if isinstance(cause, OfflineModeIsEnabled) or is_offline_mode():
        return False
    return is_of_network(cause)


def is_refusal(error: HubError) -> bool:
    """Whether this account may not do it, so that the next model would be refused as well."""
    cause = error.__cause__
    if not isinstance(cause, HfHubHTTPError) or isinstance(cause, RepositoryNotFoundError):  # one repository's matter
        return False
    return _status(cause) in (401, 403)


def seconds_asked(error: HubError) -> float:
    """How long the Hub asked to wait; 0 where it did not say."""
    cause = error.__cause__
    return _seconds(cause) if isinstance(cause, HfHubHTTPError) else 0.0


def _seconds(error: HfHubHTTPError) -> float:
    """What one of the headers says."""
    if error.response is None:
        return 0.0
    headers = error.response.headers
    after = headers.get("Retry-After", "").strip()
    # Such as "api";r=0;t=55. It comes with every answer: while some are left, r=499, it is not the limit that was met.
    limited = re.search(r";\s*r=0\s*;\s*t=(\d{1,6})", headers.get("RateLimit", ""))
    return float(after) if re.fullmatch(r"\d{1,6}", after) else float(limited[1]) if limited else 0.0


def in_words(seconds: float) -> str:
    """A time to wait, as a sentence has it."""
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:g} seconds"


def one_line(text: str, most: int) -> str:
    """What a stranger or a server wrote, as one line of characters that can be seen, `most` of them."""
    words = " ".join(text.split())[: 4 * most]
    return "".join(c for c in words if not unicodedata.category(c).startswith("C"))[:most]


def _status(error: HfHubHTTPError) -> int:
    return error.response.status_code if error.response is not None else 0


def reason(error: HfHubHTTPError) -> str:
    """In our words where we know what to do, with the Hub's own sentence where it may say more than the status."""
    status, said = _status(error), _said(str(error.server_message or ""))
    quoted = f" The Hub says: “{said}”." if said else ""
    seconds = _seconds(error)
    wait = f"Wait {in_words(seconds)}." if seconds else ""
    known = {
        401: "you are not logged in, or the token is not valid any more. Log in, or set HF_TOKEN.",
        402: f"it takes a plan that is paid for.{quoted}",
        403: f"this account may not write there.{quoted} A token needs write access to that owner.",
        409: "somebody changed the repository in the meantime. Check it, then push again.",
        412: "somebody changed the repository in the meantime. Check it, then push again.",
        413: f"it is too large for the Hub.{quoted}",
        429: f"too many requests.{quoted} {wait or 'Try again later.'}",
    }
    return known.get(status, f"the Hub answered with status {status}.{quoted} Try again later.")


def _without_hashes(text: str) -> str:
    """What the client says, where it says the same of each large file by its hash: once."""
    return "\n".join(
        dict.fromkeys(re.sub(r"^Encountered error for file with OID \w+: `?", "", line) for line in text.splitlines())
    )


def _said(text: str) -> str:
    """What a server says, as a part of one sentence: a line of limited length, with nothing secret in it."""
    line = one_line(text, MAX_SAID + 1)
    end = "…" if len(line) > MAX_SAID else ""
    line = TOKEN_PATTERN.sub("hf_…", line[:MAX_SAID]).replace("“", '"').replace("”", '"')
    return line + end if end else line.rstrip(".")


def _xet_advice() -> str:
    return "" if constants.HF_HUB_DISABLE_XET else f" {WITHOUT_XET}"
