"""A whole round in a process of its own: against the real Hub, with Xet, only for who gives it a token."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import HUB

ROOT = Path(__file__).resolve().parents[2]
TOKEN = os.environ.get("HF_TOKEN_LIVE", "")
ROUND = """
import os, uuid
from pathlib import Path
from huggingface_hub import CommitOperationAdd, HfApi
import admodels
from admodels.models.hub_errors import explained

token = os.environ["HF_TOKEN_LIVE"]
api = HfApi(token=token)
name = f"{api.whoami()['name']}/admodels-live-{uuid.uuid4().hex[:12]}"
good = sorted(Path("examples/pa_brg02_rl/train/good").glob("*.png"))
detector = admodels.create("padim_isvd", device="cpu", image_size=64, n_components=4).fit(good)
try:
    first = admodels.push(detector, name, licence="mit", token=token)
    assert first.is_private
    pulled = admodels.pull_verified(str(first.reference), device="cpu", token=token)
    assert pulled.verification.is_close, pulled.verification.statement
    assert pulled.detector.predict(good[0]).threshold == detector.predict(good[0]).threshold
    second = admodels.push(detector.with_threshold(threshold=1.0), name, licence="mit", token=token)
    assert second.reference.revision != first.reference.revision
    try:
        with explained(second.reference, "written"):
            add = [CommitOperationAdd("late.txt", b"late")]
            api.create_commit(name, add, commit_message="late", parent_commit=first.reference.revision)
    except admodels.HubError as error:
        assert "somebody changed the repository" in str(error), error
    else:
        raise AssertionError("a commit on an old parent was taken")
finally:
    api.delete_repo(name, missing_ok=True)
print("done")
"""


@pytest.mark.skipif(not TOKEN, reason="HF_TOKEN_LIVE is not set: a token of the real Hub that may write")
def test_push_pull_verify_conflict_delete_on_the_real_hub(tmp_path):
    of_the_stand_in = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_DISABLE_XET", "HF_HUB_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in of_the_stand_in}
    check_round(environment | {"HF_HOME": str(tmp_path)}, TOKEN)


def test_the_same_on_the_stand_in():
    HUB.clear()
    check_round(os.environ | {"HF_TOKEN_LIVE": "hf_owner"}, "hf_owner")
    assert not HUB.repos, "nothing is left there"


def check_round(environment, token):
    command = [sys.executable, "-c", ROUND]
    told = subprocess.run(command, capture_output=True, text=True, timeout=540, env=environment, cwd=ROOT, check=False)
    assert told.stdout.strip().endswith("done"), (told.stdout + told.stderr).replace(token, "hf_…")
