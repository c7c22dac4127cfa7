"""What the real Hub does now and then: it renames, gates, lags, limits, and sends large files elsewhere."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

import admodels
from admodels.models.format import TENSOR_FILE
from admodels.models.hub_errors import explained
from tests.models.test_hub import OTHER, OWNER, same

pytestmark = pytest.mark.usefixtures("no_waiting")
ROOT = Path(__file__).resolve().parents[2]
PUSH = """
import sys, time
import admodels
from admodels.models import uploads
uploads.ANSWER_SECONDS, uploads.TRANSFER_SECONDS, uploads.SLOWEST = float(sys.argv[1]), 3.0, 2.0**40
try:
    print(admodels.push(admodels.load("local:line"), "owner/line", token="hf_owner"))
except admodels.HubError as error:
    print("HubError:", error)
"""


def test_a_renamed_repository_is_found_and_pushed_to_by_its_new_name(hub, pushed, isvd, specks):
    hub.rename("owner/paper", "owner/sheets")
    found = admodels.pull_verified("owner/paper", device="cpu", token=OWNER)
    assert found.reference.repo_id == "owner/sheets"
    assert found.reference.revision == pushed.reference.revision
    assert same(found.detector, isvd, specks.test[0].path)
    again = admodels.push(isvd, "owner/paper", token=OWNER)
    assert again.reference.repo_id == "owner/sheets"
    assert again.notices == ("owner/paper is called owner/sheets now, so the model went there.",)
    assert set(hub.repos) == {"owner/sheets"}, "no second one under the old name"
    assert len(hub.repos["owner/sheets"].commits) == 3


def test_a_gated_repository_says_what_it_is_and_gives_no_file(hub, pushed):
    hub.repos["owner/paper"].private, hub.repos["owner/paper"].gated = False, True
    assert [model.reference.repo_id for model in admodels.search("paper", token=OTHER)] == ["owner/paper"]
    for token in (OTHER, False):
        hub.requests.clear()
        with pytest.raises(admodels.HubError, match="ask for access"):
            admodels.pull("owner/paper", token=token)
        assert hub.sent("storage") == 0
    assert admodels.pull("owner/paper", device="cpu", token=OWNER).fitted_


def test_a_repository_that_ignores_our_files_gets_them_all_the_same(hub, pushed, isvd, normals):
    files = {".gitignore": b"*.safetensors\n*.png\n"}
    hub.commit("owner/paper", files)
    other = admodels.create("fapm", device="cpu", image_size=64, grid=3).fit(normals)
    reference = admodels.push(other, "owner/paper", token=OWNER).reference
    pulled = admodels.pull_verified(str(reference), device="cpu", token=OWNER)
    assert pulled.verification.is_same
    assert pulled.detector.key == "fapm"
    assert hub.file("owner/paper", ".gitignore") == files[".gitignore"]


def test_large_files_go_in_parts_where_the_hub_asks_for_that(hub, isvd):
    hub.part_bytes = 1000
    hub.faults.append(("PUT", r"storage/\w+/2$", 503, {}))  # a part is sent again
    reference = admodels.push(isvd, "owner/parts", token=OWNER).reference
    assert sum(bool(re.search(r"storage/\w+/\d+$", path)) for method, path, _ in hub.requests if method == "PUT") > 5
    assert admodels.pull_verified(str(reference), device="cpu", token=OWNER).verification.is_same
    assert not hub.parts


def test_a_part_that_is_refused_changes_nothing(hub, pushed, normals):
    hub.part_bytes = 1000
    hub.faults.extend([("PUT", r"storage/\w+/3$", 403, {})] * 10)
    other = admodels.create("fapm", device="cpu", image_size=64, grid=3).fit(normals)
    with pytest.raises(admodels.HubError, match="could not be written"):
        admodels.push(other, "owner/paper", token=OWNER)
    assert hub.repos["owner/paper"].commits[-1][0] == pushed.reference.revision


def test_a_push_does_not_count_on_being_listed_at_once(hub, isvd):
    hub.index_lags = True
    reference = admodels.push(isvd, "owner/new", token=OWNER).reference
    assert admodels.search(owner="owner", token=OWNER) == []
    assert admodels.pull_verified(str(reference), device="cpu", token=OWNER).verification.is_same


@pytest.mark.parametrize(
    ("limit", "said"),
    [('"api";r=0;t=240', "Wait 4 minutes."), ('"api";r=499;t=240', "Try again later."), ("", "Try again later.")],
)
def test_how_long_to_wait_is_said_where_the_limit_is_the_one_that_was_met(hub, limit, said):
    hub.faults.extend([("GET", "/api/models", 429, {"RateLimit": limit})] * 10)
    with pytest.raises(admodels.HubError, match="too many requests") as caught:
        admodels.search("paper", token=OWNER)
    assert said in str(caught.value)
    assert ("Wait" in str(caught.value)) == said.startswith("Wait")


class Silent:
    """A host that accepts connections; it answers the first `n_answers` of them, and then says nothing."""

    def __init__(self, n_answers):
        self.socket, self.n_answers, self.kept = socket.socket(), n_answers, []
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(50)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                came, _ = self.socket.accept()
            except OSError:
                return
            self.kept.append(came)
            if len(self.kept) <= self.n_answers:
                came.recv(4096)
                came.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                came.close()


@pytest.mark.skipif(find_spec("hf_xet") is None, reason="hf_xet is not installed: large files do not go through Xet")
@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("refused", "gave no permission to send large files: this account may not write there"),
        ("none", "takes no large files through Xet"),
        ("silent", "which cannot be reached (ReadTimeout). A firewall may block it."),
        ("answers once", "took longer than 3 seconds"),
    ],
)
def test_a_push_that_xet_hinders_ends_and_says_what_to_do(hub, isvd, tmp_path, monkeypatch, host, said):
    monkeypatch.setenv("ADMODELS_HOME", str(tmp_path))
    admodels.save(isvd, "line")
    silent = Silent(n_answers=int(host == "answers once"))
    hub.xet = {"refused": None, "none": ""}.get(host, silent.url)
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_XET"}
    command = [sys.executable, "-c", PUSH, "2" if host == "silent" else "60"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT, check=False)
    silent.socket.close()
    assert told.stdout.startswith("HubError:"), told.stdout + told.stderr
    assert said in told.stdout
    assert "HF_HUB_DISABLE_XET=1" in told.stdout
    assert len(hub.repos["owner/line"].commits) == 1, "only what made it"


def test_a_status_of_the_hosts_of_large_files_is_said_as_such():
    error = OSError("HTTP status client error (403 Forbidden) for url (https://cas.example/v1/shards)")
    said = "the hosts of large files answered with status 403 Forbidden"
    with pytest.raises(admodels.HubError, match=said), explained(None, "written"):
        raise error


def test_what_did_not_change_is_not_sent_again(hub, pushed, isvd):
    hub.requests.clear()
    admodels.push(isvd, "owner/paper", category="paper with specks", licence="mit", token=OWNER)
    assert not [path for method, path, _ in hub.requests if method == "PUT"]
    assert json.loads(hub.file("owner/paper", "config.json"))["method"] == "padim_isvd"
    assert TENSOR_FILE in hub.repos["owner/paper"].commits[-1][1]
