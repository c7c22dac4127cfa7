"""Models in the Hub's cache take no more of the disk than they may; what is not ours stays."""

import os
import time

import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir

import admodels
from admodels.models import downloads, keep_within, note_use

OWNER = "hf_owner"


def kept():
    """Names of the repositories in the cache."""
    return {repo.repo_id for repo in scan_cache_dir().repos}


@pytest.fixture
def pulled(hub, isvd, monkeypatch):
    """Three downloaded models, each asked for an hour after the one before, and a file of another library."""
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "RECENT_SECONDS", 0)
        keep_within(0)  # of other tests
    now, found = time.time(), []
    for i, name in enumerate(("oldest", "older", "old")):
        reference = admodels.push(isvd, f"owner/{name}", private=False, token=OWNER).reference
        folder, pinned = admodels.HUB.download(reference)
        for path in folder.iterdir():
            os.utime(path, (now - 3600 * (4 - i), path.stat().st_mtime))
        found.append((folder, pinned))
    hub.commit("owner/foreign", {"config.json": b"{}" * 2**20})
    hf_hub_download("owner/foreign", "config.json", token=OWNER)
    return found


def test_the_longest_unused_go_first(pulled):
    size = keep_within(float("inf"))
    one = size / 3
    assert size == pytest.approx(3 * sum(path.stat().st_size for path in pulled[0][0].iterdir()), rel=1e-3)
    assert keep_within(size) == size
    assert keep_within(2.5 * one) == pytest.approx(2 * one, rel=1e-3)
    assert kept() >= {"owner/older", "owner/old", "owner/foreign"}
    assert "owner/oldest" not in kept()
    assert keep_within(0, {pulled[1][1].revision}) == pytest.approx(one, rel=1e-3)
    assert kept() >= {"owner/older", "owner/foreign"}
    assert "owner/old" not in kept()
    note_use(pulled[1][0])
    assert keep_within(0) > 0  # somebody asked for it just now
    assert "owner/older" in kept()


def test_what_went_is_downloaded_again(pulled, isvd, specks):
    keep_within(0)
    assert not pulled[0][0].exists()
    picture = specks.test[0].path
    again = admodels.pull(str(pulled[0][1]), device="cpu")
    assert again.predict(picture).score == pytest.approx(isvd.predict(picture).score, rel=1e-6)


def test_a_machine_without_a_cache_has_nothing_to_delete(monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, "scan_cache_dir", lambda: scan_cache_dir(tmp_path / "none"))
    assert keep_within(0) == 0


def test_a_cache_that_may_only_be_read_is_no_error(pulled, monkeypatch):
    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(os, "utime", refused)
    note_use(pulled[0][0])
