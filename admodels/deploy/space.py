"""A page without a server, as a static Space of the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download

from admodels.deploy.page import SETTINGS_FILE, page_settings
from admodels.errors import HubError
from admodels.models.card import TAG
from admodels.models.hub_errors import WRITTEN, explained, uploading
from admodels.models.references import parse_reference
from admodels.models.uploads import commit

KIND = "space"
ATTRIBUTES_FILE = ".gitattributes"  # of the Hub's own making


def push_page(folder: Path, repo_id: str, *, private: bool = True, token: str | bool | None = None) -> str:
    """Publish a page as a static Space, in one commit; what an earlier page left there goes.

    Args:
        folder: as `build_page` writes it.
        repo_id: `owner/name`; created if missing. `private` only matters then.
        token: of the Hub; by default `HF_TOKEN` or the one that is logged in, False is none.

    Returns:
        The Space's address.

    Raises:
        HubError: what the Hub refused, and why; or the Space holds something other than such a page.
    """
    wanted = parse_reference(repo_id)
    api = HfApi(token=token, library_name=TAG)
    name = f"the Space {wanted.repo_id}"
    with explained(name, WRITTEN):
        parent, there, repo_id = None, set(), wanted.repo_id
        if api.repo_exists(wanted.repo_id, repo_type=KIND):
            info = api.space_info(wanted.repo_id)
            parent, repo_id = info.sha, info.id  # the name that it has now
            there = {sibling.rfilename for sibling in info.siblings or ()}
            _check_ours(repo_id, there, parent, token)
        else:
            api.create_repo(wanted.repo_id, repo_type=KIND, space_sdk="static", private=private)
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        operations = [
            *(CommitOperationDelete(gone) for gone in sorted(there - set(files) - {ATTRIBUTES_FILE})),
            *(CommitOperationAdd(*file) for file in files.items()),
        ]
        with uploading(name):
            done = commit(api, repo_id, operations, message="Page", parent=parent, repo_type=KIND)
    return str(done.repo_url)


def _check_ours(repo_id: str, names: set[str], commit: str | None, token: str | bool | None) -> None:
    """Raises HubError where files would be lost that no page of ours is."""
    if not names - {ATTRIBUTES_FILE, "README.md"}:
        return
    if SETTINGS_FILE in names:
        path = hf_hub_download(repo_id, SETTINGS_FILE, repo_type=KIND, revision=commit, token=token, library_name=TAG)
        if page_settings(Path(path).read_bytes()) is not None:
            return
    raise HubError(
        f"the Space {repo_id} holds something other than a page of this program and would lose it. Push to another."
    )
