"""A page without a server, as a static Space of the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download

from admodels.deploy.page import SETTINGS_FILE, page_settings
from admodels.errors import HubError
from admodels.models.card import TAG
from admodels.models.hub_errors import WRITTEN, explained, uploading
from admodels.models.references import parse_reference

KIND = "space"


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
        parent = None
        if api.repo_exists(wanted.repo_id, repo_type=KIND):
            info = api.space_info(wanted.repo_id)
            parent = info.sha
            _check_ours(wanted.repo_id, {sibling.rfilename for sibling in info.siblings or ()}, parent, token)
        else:
            api.create_repo(wanted.repo_id, repo_type=KIND, space_sdk="static", private=private)
        with uploading(name):
            done = api.upload_folder(
                repo_id=wanted.repo_id,
                folder_path=folder,
                repo_type=KIND,
                commit_message="Page",
                delete_patterns=["*"],
                parent_commit=parent,
            )
    return str(done.repo_url)


def _check_ours(repo_id: str, names: set[str], commit: str | None, token: str | bool | None) -> None:
    """Raises HubError where files would be lost that no page of ours is."""
    if not names - {".gitattributes", "README.md"}:
        return
    if SETTINGS_FILE in names:
        path = hf_hub_download(repo_id, SETTINGS_FILE, repo_type=KIND, revision=commit, token=token, library_name=TAG)
        if page_settings(Path(path).read_bytes()) is not None:
            return
    raise HubError(
        f"the Space {repo_id} holds something other than a page of this program and would lose it. Push to another."
    )
