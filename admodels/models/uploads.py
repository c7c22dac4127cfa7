"""One commit to the Hub, and how long its large files may take.

The client sends and gets large files through Xet, on hosts of its own. Where a network blocks those it tries for many
minutes, and then says that the Hub cannot be reached. So a push asks them first, and every transfer has a time limit
that a slow line does not meet.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from importlib.util import find_spec
from threading import Thread
from typing import TypeVar
from urllib.parse import urlsplit

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, http_backoff

from admodels.errors import HubError
from admodels.models.hub_errors import WITHOUT_XET, WRITTEN, in_words, is_of_network, reason

ANSWER_SECONDS = 20.0  # for a host to say anything at all
TRANSFER_SECONDS = 600.0  # for any transfer; the client itself tries again within it
SLOWEST = 16 * 2**10  # bytes a second of a line that is slow, and works
EVERY_FILE = "# no file of a model may be left out\n"  # in place of the repository's .gitignore

T = TypeVar("T")


def is_xet_used() -> bool:
    """Whether the client sends and gets large files through Xet."""
    return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


def commit(
    api: HfApi,
    repo_id: str,
    operations: Sequence[CommitOperationAdd | CommitOperationDelete],
    *,
    message: str,
    parent: str | None,
    repo_type: str = constants.REPO_TYPE_MODEL,
) -> CommitInfo:
    """Send the large files, then commit.

    Raises:
        HubError: the hosts of large files refuse them, or do not answer in time.
        HfHubHTTPError, OSError, RuntimeError, ValueError: as the client has it; `explained` and `uploading` know them.
    """
    additions = [operation for operation in operations if isinstance(operation, CommitOperationAdd)]
    if is_xet_used():
        _check_xet(api, repo_id, repo_type)

    # Sent apart from the commit, so that nothing is committed by a transfer that ends after it was given up.
    def send() -> None:
        api.preupload_lfs_files(
            repo_id, additions, repo_type=repo_type, free_memory=False, gitignore_content=EVERY_FILE
        )

    limited(send, sum(addition.upload_info.size for addition in additions), f"{repo_id} could not be {WRITTEN}")
    return api.create_commit(repo_id, operations, commit_message=message, parent_commit=parent, repo_type=repo_type)


def limited(transfer: Callable[[], T], n_bytes: int, failed: str) -> T:
    """What a transfer gives, unless it takes longer than a slow line would need.

    Args:
        n_bytes: that it moves.
        failed: what to say then, before the reason.

    Raises:
        HubError: it took longer.
    """
    if not is_xet_used():
        return transfer()  # over HTTP the client waits for each answer for some seconds only
    seconds = TRANSFER_SECONDS + n_bytes / SLOWEST
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(transfer())
        except BaseException as error:  # whatever it is, the caller is to see it
            done.set_exception(error)

    # What is given up goes on until the client gives up too: to stop it would stop what others send meanwhile.
    Thread(target=work, name="transfer", daemon=True).start()
    try:
        return done.result(seconds)
    except TimeoutError as error:
        if done.done():  # the transfer's own
            raise
        raise HubError(
            f"{failed}: its {n_bytes / 2**20:.1f} MiB took longer than {in_words(seconds)}. Try again later. "
            f"{WITHOUT_XET}"
        ) from error


def _check_xet(api: HfApi, repo_id: str, repo_type: str) -> None:
    """See that large files may be sent, and that their host answers.

    Raises:
        HubError: one of them is not so.
    """
    url = f"{api.endpoint}/api/{repo_type}s/{repo_id}/xet-write-token/{constants.DEFAULT_REVISION}"
    failed = f"{repo_id} could not be {WRITTEN}, and is as it was"
    try:
        answer = http_backoff("GET", url, headers=build_hf_headers(token=api.token), timeout=ANSWER_SECONDS)
        hf_raise_for_status(answer)
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code == 404:
            raise HubError(
                f"{failed}: this Hub takes no large files through Xet. Set HF_HUB_DISABLE_XET=1, then push again."
            ) from error
        raise HubError(
            f"{failed}: the Hub gave no permission to send large files: {reason(error)} {WITHOUT_XET}"
        ) from error
    address = str(answer.headers.get(constants.HUGGINGFACE_HEADER_X_XET_ENDPOINT, ""))
    try:
        get_session().get(address, timeout=ANSWER_SECONDS)  # whatever it answers, it can be reached
    except Exception as error:
        if not is_of_network(error):
            raise
        raise HubError(
            f"{failed}: large files go to {urlsplit(address).netloc or repr(address)}, which cannot be reached "
            f"({type(error).__name__}). A firewall may block it. {WITHOUT_XET}"
        ) from error
