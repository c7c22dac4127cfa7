"""How a model on the Hub is named."""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants as hub_constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from admodels.errors import HubError

PREFIX = "hf-hub:"
# Branches, tags, commits, and refs such as refs/pr/1: parts that could be a path's, none of them hidden.
REVISION_PATTERN = re.compile(r"(?!.*\.\.)[\w-][\w.-]*(/[\w-][\w.-]*)*")


@dataclass(frozen=True)
class Reference:
    """`hf-hub:owner/name@revision`."""

    repo_id: str
    revision: str = "main"

    @property
    def url(self) -> str:
        """Its page on the Hub."""
        return f"{hub_constants.ENDPOINT}/{self.repo_id}"

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo_id}@{self.revision}"


def parse_reference(text: str) -> Reference:
    """`hf-hub:owner/name@revision`; the revision is `main` where none is given.

    Raises:
        HubError: it is not of this form.
    """
    given = text.as_posix() if isinstance(text, Path) else text
    if not isinstance(given, str):
        raise HubError(f"{text!r} names no model on the Hub. Write owner/name or hf-hub:owner/name@revision.")
    repo_id, _, revision = given.strip().removeprefix(PREFIX).partition("@")
    try:
        validate_repo_id(repo_id)
        if repo_id.count("/") != 1:
            raise HFValidationError("owner or name is missing")
        if revision and (len(revision) > 128 or not REVISION_PATTERN.fullmatch(revision)):
            raise HFValidationError("the revision is no branch, tag or commit")
    except HFValidationError as error:
        address = re.match(r"https?://[^/]+/([\w.-]+/[\w.-]+)", given.strip())
        instead = f"Write {address[1]}" if address else "Write owner/name or hf-hub:owner/name@revision"
        raise HubError(f"{text!r} names no model on the Hub ({error}). {instead}.") from error
    return Reference(repo_id, revision or "main")
