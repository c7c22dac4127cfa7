"""Models in the Hub's cache on this machine: how much they take together, and which of them can go."""

import os
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from huggingface_hub import CachedRevisionInfo, CacheNotFound, scan_cache_dir

from admodels.models.hub import NEEDED

RECENT_SECONDS = 15 * 60  # what was downloaded just now may not be read yet
_DELETING = threading.Lock()


def keep_within(n_bytes: float, in_use: Collection[str] = ()) -> int:
    """Delete downloaded models, the longest unused first, until the others fit.

    What else is in the cache is neither counted nor deleted. The Hub is asked for nothing.

    Args:
        n_bytes: that they may take together.
        in_use: commits that stay; so does what somebody asked for in the last quarter of an hour.

    Returns:
        The bytes of those that are left; more than `n_bytes` where too many had to stay.
    """
    with _DELETING:
        try:
            cache = scan_cache_dir()
        except CacheNotFound:
            return 0
        models = [repo for repo in cache.repos if repo.repo_type == "model"]
        ours = [revision for repo in models for revision in repo.revisions if _is_ours(revision)]
        free = [revision for revision in ours if revision.commit_hash not in in_use]
        held, going, latest = sum(revision.size_on_disk for revision in ours), [], time.time() - RECENT_SECONDS
        for revision in sorted(free, key=_asked_for_at):
            if held <= n_bytes or _asked_for_at(revision) > latest:
                break
            going.append(revision.commit_hash)
            held -= revision.size_on_disk
        if going:
            cache.delete_revisions(*going).execute()
        return held


def note_use(folder: Path) -> None:
    """Have `keep_within` know that somebody asked for the model in this folder of the cache just now."""
    for path in folder.iterdir():
        with suppress(OSError):  # a cache that may only be read
            os.utime(path, (time.time(), path.stat().st_mtime))  # few systems note every reading


def _is_ours(revision: CachedRevisionInfo) -> bool:
    return {file.file_name for file in revision.files}.issuperset(NEEDED)


def _asked_for_at(revision: CachedRevisionInfo) -> float:
    return max(file.blob_last_accessed for file in revision.files)
