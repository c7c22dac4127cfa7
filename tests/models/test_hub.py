"""Push, pull, search and verify through the real client, against a server that speaks the Hub's language."""

import hashlib
import io
import json
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import admodels
from admodels.deploy.onnx_file import read
from admodels.deploy.runtimes import check_probe, runtimes_here
from admodels.deploy.space import push_page
from admodels.evaluation.accuracy import evaluate
from admodels.models import hub_errors
from admodels.models.format import CONFIG_FILE, TENSOR_FILE
from admodels.models.hub_errors import WRITTEN, explained, uploading
from admodels.models.publishing import FILES
from admodels.models.references import Reference, parse_reference
from tests.conftest import SMALL
from tests.models.hub_server import Repo

OWNER, READER, OTHER = "hf_owner", "hf_reader", "hf_other"


pytestmark = pytest.mark.usefixtures("no_waiting")


def same(a, b, path):
    x, y = a.predict(path), b.predict(path)
    return x.score == y.score and np.array_equal(x.anomaly_map, y.anomaly_map) and x.threshold == y.threshold


def test_what_is_pulled_scores_as_what_was_pushed(hub, fitted, specks):
    done = admodels.push(fitted, "owner/any", token=OWNER)
    assert done.is_private
    assert done.reference == Reference("owner/any", hub.repos["owner/any"].commits[-1][0])
    assert done.url.endswith("/owner/any")
    pulled = admodels.pull_verified(str(done.reference), device="cpu", token=OWNER)
    assert pulled.reference == done.reference
    assert pulled.verification.is_same
    assert "bit for bit" in pulled.verification.statement
    assert same(fitted, pulled.detector, specks.test[0].path)


def test_a_repository_holds_our_files_and_no_picture_of_the_fit(hub, pushed, normals):
    listing = hub.repos["owner/paper"].commits[-1][1]
    assert set(listing) == set(FILES)
    contents = [hub.blobs[digest] for digest in listing.values()]
    for path in normals:
        assert path.read_bytes() not in contents
        assert not any(str(path.name).encode() in content for content in contents)
    config = json.loads(hub.file("owner/paper", CONFIG_FILE))
    card = hashlib.sha256(hub.file("owner/paper", "README.md")).hexdigest()
    assert config["published"] == {"category": "paper with specks", "licence": "mit", "card_sha256": card}
    assert Image.open(io.BytesIO(hub.file("owner/paper", "preview.png"))).format == "PNG"


def test_the_card_says_what_was_measured_and_nothing_else(hub, pushed, isvd, small_data):
    card = ModelCard(hub.file("owner/paper", "README.md").decode())
    card.validate()
    data = card.data.to_dict()
    assert data["library_name"] == "admodels"
    assert {"admodels", "anomaly-detection", "padim_isvd", "paper-with-specks"} == set(data["tags"])
    assert "model-index" not in data
    assert "datasets" not in data
    assert data["license"] == "mit"
    assert "license_name" not in data
    assert "image_auroc" not in data["admodels"]
    assert data["admodels"]["predict_fps"] > 0
    assert "## Accuracy" not in card.text
    assert f"{isvd.calibration_.threshold:.6g}" in card.text
    assert isvd.calibration_.statement in card.text
    counts = [int(n) for n in re.findall(r"(\d+)(?: ← threshold)?$", card.text.split("```")[3], re.MULTILINE)]
    assert sum(counts) == len(isvd.calibration_.scores)
    assert "not stated" in card.text

    from admodels.evaluation.datasets import load_dataset

    detector = admodels.create("padim_isvd", device="cpu", **SMALL["padim_isvd"])
    found = evaluate(detector, load_dataset(small_data), robustness=False)
    terms = {"data_terms": "CC BY 4.0", "learned_digests": ["b", "a"], "dataset": "owner/pictures"}
    admodels.push(detector, "owner/measured", evaluation=found, token=OWNER, **terms)
    card = ModelCard(hub.file("owner/measured", "README.md").decode())
    assert card.data.datasets == ["owner/pictures"]
    results = card.data.eval_results
    assert [r.metric_value for r in results if r.metric_type == "roc_auc"] == [round(found.image_auroc, 4)]
    block = card.data.to_dict()["admodels"]  # a listing may come without those
    assert (block["image_auroc"], block["measured_on"]) == (round(found.image_auroc, 4), "owner/measured")
    # The licence is not stated: what the Hub asks for then.
    assert (card.data.license, card.data.license_name) == ("other", "not-stated")
    assert card.data.license_link.endswith("/owner/measured/blob/main/README.md")
    last = found.at_rates[-1]
    assert (
        f"10 % false alarms | {last.detection_rate:.3f} (false alarms that occurred: {last.false_alarm_rate:.3f})"
        in card.text
    )
    assert "1 % false alarms |" not in card.text.replace("10 %", "")  # too few held out, so nothing is said
    assert "CC BY 4.0" in card.text
    assert "SHA-256" in card.text


def test_a_local_model_is_pushed_by_its_name(hub, isvd):
    admodels.save(isvd, "to-push")
    assert admodels.push("local:to-push", "owner/named", token=OWNER).reference.repo_id == "owner/named"
    admodels.delete("to-push")


def test_pushing_again_makes_one_more_commit_and_pulls_are_pinned(hub, pushed, isvd, normals):
    first = pushed.reference
    other = isvd.with_threshold(false_alarm_rate=0.5)
    second = admodels.push(other, "owner/paper", token=OWNER).reference
    assert len(hub.repos["owner/paper"].commits) == 3
    a, b = (admodels.pull(str(ref), device="cpu", token=OWNER) for ref in (first, second))
    assert a.calibration_.threshold == isvd.calibration_.threshold
    assert b.calibration_.threshold == other.calibration_.threshold
    newest = admodels.pull_verified("hf-hub:owner/paper", device="cpu", token=OWNER)
    assert newest.reference == second


def test_files_of_others_stay_and_are_never_downloaded(hub, pushed, isvd):
    hub.commit("owner/paper", {"evil.pkl": b"cos\nsystem", "docs/notes.md": b"by a person"})
    assert admodels.pull_verified("owner/paper", device="cpu", token=OWNER).verification.is_same
    again = admodels.push(isvd.with_threshold(threshold=1.5), "owner/paper", token=OWNER)
    listing = hub.repos["owner/paper"].commits[-1][1]
    assert set(listing) == {*FILES, "evil.pkl", "docs/notes.md"}
    pulled = admodels.pull(str(again.reference), device="cpu", token=OWNER)
    assert pulled.calibration_.threshold == 1.5
    folder, _ = admodels.HUB.download(again.reference, token=OWNER)
    assert {p.name for p in folder.iterdir()} == set(FILES)
    assert not hub.sent(r"evil|notes")
    assert not hub.sent(f"storage/{listing['evil.pkl']}")


def test_a_card_that_a_person_edited_is_kept_unless_asked_for(hub, pushed, isvd):
    other = isvd.with_threshold(threshold=1.5)
    # As it was pushed it is replaced, which is nothing to tell of.
    assert not admodels.push(other, "owner/paper", token=OWNER).kept_card
    assert b"above 1.5 count" in hub.file("owner/paper", "README.md")
    edited = hub.file("owner/paper", "README.md") + b"\nMeasured at line 2 by hand.\n"
    hub.commit("owner/paper", {"README.md": edited})
    for _ in range(2):  # and so on with every push
        done = admodels.push(isvd, "owner/paper", token=OWNER)
        assert done.kept_card
        assert hub.file("owner/paper", "README.md") == edited
    pulled = admodels.pull("owner/paper", device="cpu", token=OWNER)
    assert pulled.calibration_.threshold == isvd.calibration_.threshold
    assert not admodels.push(isvd, "owner/paper", overwrite_card=True, token=OWNER).kept_card
    assert b"by hand" not in hub.file("owner/paper", "README.md")
    assert not admodels.push(isvd, "owner/paper", token=OWNER).kept_card


def test_a_card_without_a_model_is_kept(hub, isvd):
    hub.commit("owner/fresh", {"README.md": b"---\nlicense: mit\n---\n# Mine\n"})
    assert admodels.push(isvd, "owner/fresh", token=OWNER).kept_card
    assert hub.file("owner/fresh", "README.md").endswith(b"# Mine\n")
    assert admodels.pull_verified("owner/fresh", device="cpu", token=OWNER).verification.is_same


@pytest.mark.parametrize("config", [b'{"architectures": ["Bert"]}', b"{", b"[" * 10_000, None])
def test_a_model_of_another_library_is_not_overwritten(hub, isvd, config):
    hub.commit("owner/llm", {"config.json": config, "model.safetensors": b"x"} if config else {TENSOR_FILE: b"x"})
    before = hub.repos["owner/llm"].commits[-1]
    with pytest.raises(admodels.HubError, match="not of this library, and would lose it"):
        admodels.push(isvd, "owner/llm", token=OWNER)
    assert hub.repos["owner/llm"].commits[-1] == before


def test_a_concurrent_change_is_refused_and_kept(hub, pushed, isvd):
    hub.before_commit = lambda: hub.commit("owner/paper", {"README.md": b"somebody else's"})
    with pytest.raises(admodels.HubError, match="somebody changed the repository in the meantime"):
        admodels.push(isvd.with_threshold(threshold=1.0), "owner/paper", token=OWNER)
    assert hub.file("owner/paper", "README.md") == b"somebody else's"


def test_an_unchanged_model_is_not_transferred_again(hub, isvd):
    done = admodels.push(isvd, "owner/once", token=OWNER)
    admodels.pull(str(done.reference), device="cpu", token=OWNER)
    before = hub.sent("storage")
    assert before > 0
    admodels.pull("owner/once", device="cpu", token=OWNER)
    assert hub.sent("storage") == before


def test_a_download_that_breaks_off_goes_on_where_it_stopped(hub, isvd, monkeypatch):
    part = 2**16
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", part)  # what is less than one is lost
    admodels.push(isvd, "owner/far", token=OWNER)
    digest = hub.repos["owner/far"].commits[-1][1][TENSOR_FILE]
    size = len(hub.blobs[digest])
    hub.cut_after[digest] = size // 2
    assert admodels.pull_verified("owner/far", device="cpu", token=OWNER).verification.is_same
    first, second = [n for method, path, n in hub.requests if method == "GET" and digest in path]
    assert first == size // 2
    assert size - first <= second < size - first + part


@pytest.mark.parametrize("status", [429, 503])
def test_the_hub_is_asked_again_when_it_is_busy(hub, isvd, status):
    hub.faults.append(("POST", "preupload", status, {"Retry-After": "0"}))
    hub.faults.append(("PUT", "storage", 503, {}))
    reference = admodels.push(isvd, "owner/busy", token=OWNER).reference
    hub.faults.append(("GET", "storage", status, {"Retry-After": "0"}))
    assert admodels.pull_verified(str(reference), device="cpu", token=OWNER).verification.is_same


@pytest.mark.parametrize(
    ("token", "said"),
    [
        (False, "not logged in, or the token is not valid"),
        ("hf_expired", "not logged in, or the token is not valid"),
        (READER, "may not write there"),
        (OTHER, "may not write there"),
    ],
)
def test_who_may_not_push_is_told_what_to_do_and_the_token_is_not_repeated(hub, isvd, token, said):
    with pytest.raises(admodels.HubError, match=said) as caught:
        admodels.push(isvd, "owner/mine", token=token)
    assert not token or token not in str(caught.value)
    assert not hub.repos


@pytest.mark.parametrize(
    ("route", "status", "headers", "said"),
    [
        ("/commit/", 402, {}, "takes a plan that is paid for. The Hub says: “made by the test”."),
        (
            "/commit/",
            403,
            {"X-Error-Message": "Private repository storage limit reached, please upgrade your plan."},
            "may not write there. The Hub says: “Private repository storage limit reached, please upgrade your plan",
        ),
        ("/commit/", 413, {"X-Error-Message": "File is over 50 GB"}, "too large for the Hub. The Hub says: “File is"),
        (
            "/repos/create",
            429,
            {"X-Error-Message": "128 commits per hour", "RateLimit": '"commits";r=0;t=2400'},
            "too many requests. The Hub says: “128 commits per hour",
        ),
    ],
)
def test_what_the_hub_says_is_part_of_what_we_say(hub, isvd, route, status, headers, said):
    hub.faults.append(("POST", route, status, headers))
    with pytest.raises(admodels.HubError, match=re.escape(said)) as caught:
        admodels.push(isvd, "owner/refused", token=OWNER)
    assert ("Wait 40 minutes." in str(caught.value)) == (status == 429)
    assert len(hub.repos.get("owner/refused", Repo(False)).commits) <= 1  # nothing but its beginning


def test_uploads_that_fail_are_explained_and_change_nothing(hub, isvd, monkeypatch):
    def refused():
        with pytest.raises(
            admodels.HubError, match=r"owner/broken\S* could not be written, and is as it was"
        ) as caught:
            admodels.push(isvd, "owner/broken", token=OWNER)
        assert len(hub.repos["owner/broken"].commits) == 1
        assert "\n" not in str(caught.value)
        return str(caught.value)

    hub.lfs_error = "Object is too large\nfor hf_owner"
    said = refused()
    assert said.count("Object is too large") == 1
    assert "for hf_…" in said
    hub.faults.append(("PUT", "/storage/", 400, {"X-Error-Message": "the content was changed on its way"}))
    assert "The Hub says: “the content was changed on its way" in refused()

    def breaks(**_):
        raise ConnectionResetError("token hf_owner")

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub._commit_api.lfs_upload", breaks)
        said = refused()
    assert "(ConnectionResetError) Try again later." in said
    hub.faults.append(("POST", "/validate-yaml", 400, {}))
    assert "Invalid metadata in README.md" in refused()
    assert admodels.push(isvd, "owner/broken", token=OWNER).url


@pytest.mark.parametrize("is_off", [True, False])
def test_an_upload_that_xet_may_hinder_says_how_to_do_without(monkeypatch, is_off):
    monkeypatch.setattr("admodels.models.hub_errors.constants.HF_HUB_DISABLE_XET", is_off)
    with pytest.raises(admodels.HubError) as caught, uploading("owner/any"):
        raise RuntimeError("Data processing error") from OSError("no route")
    assert ("HF_HUB_DISABLE_XET=1" in str(caught.value)) != is_off
    with pytest.raises(admodels.HubError) as caught, explained("owner/any", WRITTEN):
        raise ConnectionError("no route")
    assert ("HF_HUB_DISABLE_XET=1" in str(caught.value)) != is_off


@given(st.text(max_size=600))
def test_a_server_s_sentence_is_one_short_line_without_a_token(text):
    said = hub_errors._said(f"{text} hf_abcdefgh")
    assert len(said) <= hub_errors.MAX_SAID + 1
    assert said.isprintable()
    assert "hf_abcdefgh" not in said


def test_private_gated_and_missing_ones(hub, pushed):
    for reference, token in (("owner/paper", False), ("owner/paper", OTHER), ("owner/nothing", OWNER)):
        with pytest.raises(admodels.HubError, match="does not exist, or it is private"):
            admodels.pull(reference, token=token)
    with pytest.raises(admodels.HubError, match="no such revision"):
        admodels.pull("owner/paper@v9", token=OWNER)
    hub.repos["owner/paper"].private = False
    hub.repos["owner/paper"].gated = True
    with pytest.raises(admodels.HubError, match="ask for access"):
        admodels.pull("owner/paper", token=OTHER)


def test_without_a_network_what_was_pulled_before_is_there(hub, pushed, monkeypatch):
    admodels.pull(str(pushed.reference), device="cpu", token=OWNER)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = admodels.pull_verified(str(pushed.reference), device="cpu")
    assert again.verification.is_same
    assert again.reference == pushed.reference
    with pytest.raises(admodels.HubError, match="not in the cache"):
        admodels.pull("owner/never")


def test_without_a_network_every_reference_finds_what_it_found_before(hub, pushed, isvd, monkeypatch):
    other = admodels.push(isvd.with_threshold(threshold=1.5), "owner/paper", token=OWNER).reference
    first = pushed.reference.revision
    hub.repos["owner/paper"].refs |= {"v1.0": first, "feature/new-light": first, "refs/pr/1": other.revision}
    expected = {"": other.revision, "@main": other.revision, "@v1.0": first, f"@{first}": first}
    expected |= {"@feature/new-light": first, "@refs/pr/1": other.revision}
    for revision, commit in expected.items():
        pulled = admodels.pull_verified(f"owner/paper{revision}", device="cpu", token=OWNER)
        assert pulled.reference.revision == commit
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        for revision, commit in expected.items():
            again = admodels.pull_verified(f"hf-hub:owner/paper{revision}", device="cpu")
            assert again.reference.revision == commit
            assert again.verification.is_same
        with pytest.raises(admodels.HubError, match="not in the cache"):
            admodels.pull("owner/paper@v2")
    # A branch that moved is what it was when it was pulled last.
    hub.repos["owner/paper"].refs["feature/new-light"] = other.revision
    admodels.pull("owner/paper@feature/new-light", device="cpu", token=OWNER)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert admodels.pull_verified("owner/paper@feature/new-light", device="cpu").reference.revision == other.revision


def test_a_revision_that_the_cache_knows_costs_no_further_request(hub, pushed):
    admodels.pull("owner/paper", device="cpu", token=OWNER)
    hub.requests.clear()
    admodels.pull("owner/paper", device="cpu", token=OWNER)
    assert [path for method, path, _ in hub.requests if "api/models" in path] == [
        "/api/models/owner/paper/revision/main"
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("paper", "a/b/c", "../etc", "owner/..", "owner/name@../x", "http://x/y", "o/n@a b", "", "owner/na me"),
        *("o/n@/etc/passwd", "o/n@a//b", "o/n@a/", "o/n@.hidden", "o/n@a/../b", "o/n@a..b", "o/n@" + "x" * 129),
        *(None, 3, b"o/n"),
    ],
)
def test_references_are_checked_before_anything_is_asked(hub, text):
    with pytest.raises(admodels.HubError, match="names no model on the Hub"):
        admodels.pull(text)
    with pytest.raises(admodels.HubError, match="names no model on the Hub"):
        admodels.push("whatever", text)
    assert not hub.requests


def test_a_reference_has_a_revision():
    assert parse_reference("hf-hub:o/n") == parse_reference("o/n@main") == Reference("o/n", "main")
    assert str(parse_reference("o/n@v1.0")) == "hf-hub:o/n@v1.0"
    assert parse_reference(Path("o/n")) == Reference("o/n")
    with pytest.raises(admodels.HubError, match=r"Write me/bolts\."):
        parse_reference("https://huggingface.co/me/bolts/tree/main")


# --- malicious and broken repositories --------------------


def config_of(hub):
    return json.loads(hub.file("owner/paper", CONFIG_FILE))


def header(fields, data=b""):
    """A safetensors file with this header."""
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text + data


def huge(hub):
    sizes = {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}
    return {TENSOR_FILE: header({"projection": sizes})}


def not_finite(hub):
    from safetensors.torch import load, save

    tensors = load(hub.file("owner/paper", TENSOR_FILE))
    return {TENSOR_FILE: save({name: t * float("nan") if t.is_floating_point() else t for name, t in tensors.items()})}


def other_probe(hub):
    picture = Image.fromarray(np.full((64, 64, 3), 128, np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return {"probe.png": buffer.getvalue()}


def with_config(**changes):
    return lambda hub: {CONFIG_FILE: json.dumps(config_of(hub) | changes).encode()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_config(format_version=99), "format version 99"),
        (with_config(method="os.system"), "names the method"),
        (with_config(working_shape={"resized": [8192, 8192], "cropped": [8192, 8192]}), "contradicts the options"),
        (with_config(fit={"n_learned": 10**300, "n_held_out": 1, "n_duplicates": 0}), "n_learned is"),
        (with_config(options={"teacher": "../../etc/passwd"}), "unknown option"),
        (with_config(probe={"score": "nan", "map_sha256": "", "made_on": "cpu", "precision": "float32"}), "probe"),
        (with_config(probe=None), "probe"),
        (lambda hub: {CONFIG_FILE: b"{" * 100_000}, "not valid JSON"),
        (lambda hub: {CONFIG_FILE: b"../../../etc/passwd"}, "not valid JSON"),  # how git stores a symbolic link
        (lambda hub: {TENSOR_FILE: b"\x80\x04cposix\nsystem\n"}, "cannot be read"),
        (huge, "cannot be read"),
        (not_finite, "not finite"),
        (lambda hub: {"probe.png": b"no picture"}, "probe"),
        (lambda hub: {TENSOR_FILE: None}, f"it has no {TENSOR_FILE}"),
    ],
)
def test_a_repository_that_is_not_as_it_should_be_is_refused(hub, pushed, change, said):
    hub.commit("owner/paper", change(hub))
    with pytest.raises(admodels.AdmodelsError, match=said):
        admodels.pull("owner/paper", device="cpu", token=OWNER)


def test_a_wrong_probe_is_said(hub, pushed):
    hub.commit("owner/paper", other_probe(hub))
    found = admodels.verify("owner/paper", device="cpu", token=OWNER)
    assert not found.is_same
    assert not found.is_close
    assert "Not verified" in found.statement
    expected = config_of(hub)["probe"]["score"]
    hub.commit("owner/paper", with_config(probe=config_of(hub)["probe"] | {"score": found.score * 1.0001})(hub))
    close = admodels.verify("owner/paper", device="cpu", token=OWNER)
    assert close.is_close
    assert not close.is_same
    assert f"Verified within {close.tolerance:.1%}" in close.statement
    assert expected != close.expected_score


def test_too_large_and_hidden_files_are_refused_before_a_byte_is_fetched(hub, pushed):
    hub.commit("owner/paper", {CONFIG_FILE: b" " * (FILES[CONFIG_FILE] + 1)})
    with pytest.raises(admodels.HubError, match="more than the"):
        admodels.pull("owner/paper", token=OWNER)
    assert not hub.sent("resolve|storage")
    hub.commit("owner/paper", {CONFIG_FILE: b"{}", "../../outside.json": b"{}"})
    with pytest.raises(admodels.StoreError, match="format version None"):
        admodels.pull("owner/paper", token=OWNER)
    assert not hub.sent("outside")


def test_a_repository_of_something_else_is_explained_in_one_sentence(hub):
    hub.commit("owner/llm", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(admodels.HubError, match="is not a model of this library: it has no"):
        admodels.pull("owner/llm")


def test_nothing_of_a_pull_can_run(hub, pushed, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("torch.load was called"))
    monkeypatch.setattr(os, "system", lambda *a: pytest.fail("os.system was called"))
    folder, pinned = admodels.HUB.download(parse_reference("owner/paper"), token=OWNER)
    assert {p.name for p in folder.iterdir()} == set(FILES)
    assert admodels.pull(str(pinned), device="cpu", token=OWNER).is_fitted


# --- search --------------------


def test_models_are_found_by_tag_owner_and_text(hub, isvd):
    for name in ("owner/bolts", "owner/nuts", "other/bolts"):
        token = OWNER if name.startswith("owner") else OTHER
        admodels.push(isvd, name, category=name.split("/")[1], licence="mit", private=False, token=token)
    admodels.push(isvd, "owner/secret", token=OWNER)
    hub.commit("owner/llm", {"README.md": b"---\ntags: [text-generation]\n---\n"})
    hub.repos["owner/nuts"].downloads = 7
    found = admodels.search(token=False)
    assert [m.reference.repo_id for m in found] == ["owner/nuts", "owner/bolts", "other/bolts"]
    assert (found[0].category, found[0].licence, found[0].downloads) == ("nuts", "mit", 7)
    assert found[0].method == isvd.title
    assert found[0].size_mib == pytest.approx(isvd.model_mib, rel=0.05)
    assert found[0].reference.revision == hub.repos["owner/nuts"].commits[-1][0]
    assert [m.reference.repo_id for m in admodels.search("bolts", owner="other", token=False)] == ["other/bolts"]
    assert "owner/secret" in [m.reference.repo_id for m in admodels.search(token=OWNER)]
    assert len(admodels.search(limit=1, token=False)) == 1


def test_a_card_that_lies_about_types_breaks_nothing(hub):
    text = "---\ntags: [admodels]\nmodel-index: [high]\nadmodels: {category: [1], size_mib: true}\n---\n"
    hub.commit("owner/odd", {"README.md": text.encode()})
    hub.commit("owner/odder", {"README.md": b"---\ntags: [admodels]\nadmodels: 3\n---\n"})
    odd, odder = admodels.search(token=False)
    assert odd.image_auroc is None
    assert odd.size_mib is None
    assert odder.method == ""


def test_a_search_reads_the_auroc_of_our_block_and_of_earlier_cards(hub):
    result = (
        "{task: {type: image-segmentation}, dataset: {name: nuts, type: custom}, metrics: [{type: KIND, value: 0.9}]}"
    )
    index = f"model-index: [{{name: owner/any, results: [{result}]}}]\nadmodels: "
    cards = {
        "owner/new": index.replace("KIND", "roc_auc") + "{image_auroc: 0.95, measured_on: bolts, n_test: 8}",
        "owner/block": "admodels: {image_auroc: 0.8, measured_on: screws, n_test: 9}",
        "owner/before": index.replace("KIND", "auroc") + "{n_test: 7}",
        "owner/lies": index.replace("KIND", "auroc") + "{image_auroc: .nan, measured_on: [x], n_test: 6}",
    }
    for name, front in cards.items():
        hub.commit(name, {"README.md": f"---\ntags: [admodels]\n{front}\n---\n".encode()})
    found = {m.reference.repo_id: (m.image_auroc, m.measured_on, m.n_test) for m in admodels.search(token=False)}
    assert found == {
        "owner/new": (0.95, "bolts", 8),
        "owner/block": (0.8, "screws", 9),
        "owner/before": (0.9, "nuts", 7),
        "owner/lies": (None, "", None),
    }


def test_what_a_strangers_card_says_is_one_short_line(hub):
    sly = "bolts [/b]\\x1b[2J\\u202e" + "x" * 500
    card = f'---\ntags: [admodels]\nlicense: "mit\\n[/x]"\nadmodels: {{category: "{sly}", size_mib: .nan}}\n---\n'
    hub.commit("owner/sly", {"README.md": card.encode()})
    (found,) = admodels.search(token=False)
    assert found.category == "bolts [/b][2J" + "x" * 51
    assert found.licence == "mit [/x]"
    assert found.size_mib is None


def test_the_example_does_the_whole_round(monkeypatch, capsys):
    from examples.share_a_model import main

    monkeypatch.setenv("HF_TOKEN", OWNER)
    main("owner/paper")
    said = capsys.readouterr().out
    assert "private" in said
    assert "paper with specks, image AUROC 1.0" in said
    assert "bit for bit" in said
    here, there = re.search(r"score (\S+) here, (\S+) as pulled", said).groups()
    assert here == there


@pytest.mark.parametrize(
    ("pushed_as", "asked", "model", "data"),
    [
        ({"licence": "mit", "data_terms": "CC BY 4.0, " * 12}, {}, "mit", ("CC BY 4.0, " * 12).strip()),
        ({"licence": "mit", "data_terms": "ours"}, {"licence": "apache-2.0"}, "apache-2.0", "ours"),
        ({}, {}, "not stated", "not stated"),
    ],
)
def test_a_pulled_model_is_exported_under_the_terms_it_was_pushed_with(
    hub, isvd, tmp_path, pushed_as, asked, model, data
):
    reference = admodels.push(isvd, "owner/terms", token=OWNER, private=False, **pushed_as).reference
    done = admodels.export(str(reference), tmp_path / "model.onnx", **asked)
    licences = json.loads(read(done.path).metadata["licences"])
    assert (licences["model"], licences["data"]) == (model, data)


def test_a_push_may_hold_the_model_as_onnx_and_never_another_models(hub, isvd, tmp_path):
    done = admodels.push(isvd, "owner/other", licence="mit", data_terms="ours", onnx=True, token=OWNER)
    (tmp_path / "model.onnx").write_bytes(hub.file("owner/other", "onnx/model.onnx"))
    file = read(tmp_path / "model.onnx")
    assert file.calibration == isvd.calibration_
    assert json.loads(file.metadata["licences"])["model"] == "mit"
    assert all(check.is_close for check in check_probe(file, runtimes_here(file.path)))
    # Readers need no more than before, and fetch no more.
    hub.requests.clear()
    assert admodels.pull_verified(str(done.reference), device="cpu", token=OWNER).verification.is_same
    assert not any("onnx" in path for _, path, _ in hub.requests)
    admodels.push(isvd.with_threshold(threshold=3.0), "owner/other", token=OWNER)
    assert "onnx/model.onnx" not in hub.repos["owner/other"].commits[-1][1]


@pytest.fixture
def page(tmp_path):
    """What `build_page` leaves, as far as a push looks at it."""
    folder = tmp_path / "site"
    (folder / "runtime").mkdir(parents=True)
    (folder / "index.html").write_text("<title>page</title>", encoding="utf-8")
    (folder / "model.json").write_text(json.dumps({"format": "admodels page 1"}), encoding="utf-8")
    (folder / "README.md").write_text("---\nsdk: static\n---\n", encoding="utf-8")
    (folder / "runtime" / "some.wasm").write_bytes(b"wasm")
    return folder


def test_a_page_becomes_a_static_space_and_replaces_the_page_before(hub, page):
    assert push_page(page, "owner/look", token=OWNER).endswith("spaces/owner/look")
    assert hub.repos["spaces/owner/look"].private
    (page / "runtime" / "some.wasm").rename(page / "runtime" / "newer.wasm")
    push_page(page, "owner/look", token=OWNER)
    names = set(hub.repos["spaces/owner/look"].commits[-1][1])
    assert names == {"index.html", "model.json", "README.md", "runtime/newer.wasm"}


def test_a_space_that_is_no_page_keeps_its_files(hub, page):
    hub.commit("spaces/owner/app", {"app.py": b"", "model.json": b"{}", "README.md": b""})
    with pytest.raises(admodels.HubError, match="holds something other than a page"):
        push_page(page, "owner/app", token=OWNER)
    assert set(hub.repos["spaces/owner/app"].commits[-1][1]) == {"app.py", "model.json", "README.md"}


def test_nobody_else_can_push_a_page(hub, page):
    push_page(page, "owner/look", private=False, token=OWNER)
    with pytest.raises(admodels.HubError, match="may not write there"):
        push_page(page, "owner/look", token=READER)


def test_a_picture_that_may_be_published_is_there_to_try_the_model_on(hub, isvd, specks):
    picture = specks.test[0].path
    done = admodels.push(isvd, "owner/tried", preview=picture, token=OWNER)
    pulled = admodels.pull_verified(str(done.reference), device="cpu", token=OWNER)
    assert pulled.verification.is_same
    assert pulled.detector.predict(pulled.picture).score == isvd.predict(picture).score  # small enough to be as it was
    assert "preview_original.png" in hub.file("owner/tried", "README.md").decode()
    # What somebody put in its place is no picture of this model, and the next model has none.
    hub.commit("owner/tried", {"preview_original.png": hub.file("owner/tried", "preview.png")})
    assert admodels.pull_verified("owner/tried", device="cpu", token=OWNER).picture is None
    admodels.push(isvd.with_threshold(threshold=1.5), "owner/tried", token=OWNER)
    assert "preview_original.png" not in hub.repos["owner/tried"].commits[-1][1]
    assert admodels.pull_verified("owner/tried", device="cpu", token=OWNER).picture is None
