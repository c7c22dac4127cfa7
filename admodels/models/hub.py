"""Models on the Hugging Face Hub: push, pull, search, verify. The only module that imports `huggingface_hub`.

Of a repository only what `FILES` names is ours: other files stay as they are, and are never downloaded. What is pulled
is pinned to a commit, checked as any saved model is, and then scores a stored picture again: the model that arrives is
the one that was sent.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` mean what they mean to `huggingface_hub`.
"""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from huggingface_hub import (
    CommitOperationAdd,
    EvalResult,
    HfApi,
    ModelCard,
    ModelCardData,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub import constants as hub_constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import validate_repo_id
from PIL import Image

from admodels.core.detector import Detector
from admodels.core.results import Prediction
from admodels.errors import HubError, StoreError
from admodels.evaluation.measure import Accuracy
from admodels.evaluation.timing import conditions, measure_network
from admodels.models.card import CATEGORY_PATTERN, LICENCES, TAG, Source, body, metadata
from admodels.models.store import (
    CONFIG_FILE,
    MAX_CONFIG_BYTES,
    MAX_TENSOR_BYTES,
    TENSOR_FILE,
    load,
    read_folder,
    write_folder,
)
from admodels.pictures.generated import generate
from admodels.pictures.images import ImageLike, decode
from admodels.pictures.render import overlay

PREFIX = "hf-hub:"
CARD_FILE, PROBE_FILE, PREVIEW_FILE = "README.md", "probe.png", "preview.png"
MAX_PICTURE_BYTES = 8 * 2**20
FILES = {  # and the most that each may hold
    CONFIG_FILE: MAX_CONFIG_BYTES,
    TENSOR_FILE: MAX_TENSOR_BYTES,
    CARD_FILE: 2**20,
    PROBE_FILE: MAX_PICTURE_BYTES,
    PREVIEW_FILE: MAX_PICTURE_BYTES,
}
NEEDED = (CONFIG_FILE, TENSOR_FILE, PROBE_FILE)
PARTS = ("method", "calibration", "working_shape")  # fields by which a configuration is known as ours
# Relative to the score: sums in another order, or another device, and half as many digits.
TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2}
SPEED_SECONDS = 0.1  # for the card; nobody wants to wait for a push
COMMIT_PATTERN = re.compile(r"[0-9a-f]{40}")
# Branches, tags, commits, and refs such as refs/pr/1: parts that could be a path's, none of them hidden.
REVISION_PATTERN = re.compile(r"(?!.*\.\.)[\w-][\w.-]*(/[\w-][\w.-]*)*")
MAX_SHOWN = 64  # characters of a name from a stranger's card


@dataclass(frozen=True)
class Reference:
    """`hf-hub:owner/name@revision`."""

    repo_id: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo_id}@{self.revision}"


@dataclass(frozen=True)
class Pushed:
    """Where a model went.

    Attributes:
        reference: pinned to the commit.
        kept_card: the model card there is not one that was pushed from here and left as it was, so it was kept; it may
            describe an earlier model.
    """

    reference: Reference
    url: str
    is_private: bool
    kept_card: bool = False


@dataclass(frozen=True)
class Verification:
    """What scoring the stored picture again gave.

    Attributes:
        is_same: score and map are those that were stored, bit for bit.
        is_close: the score is within the tolerance of this precision, as it is where all is the same.
    """

    expected_score: float
    score: float
    is_same: bool
    is_close: bool
    tolerance: float
    made_on: str

    @property
    def statement(self) -> str:
        """For people."""
        if self.is_same:
            return f"Verified: the stored picture scores {self.score:.6g} again, and its map is the same bit for bit."
        values = f"{self.score:.6g}, where it scored {self.expected_score:.6g} on {self.made_on}"
        if self.is_close:
            return f"Verified within {self.tolerance:.1%}: the stored picture scores {values}."
        return (
            f"Not verified: the stored picture scores {values}. Its scores here are not those that its maker saw; "
            "do not rely on its threshold."
        )


@dataclass(frozen=True)
class HubModel:
    """What a search shows of a repository, from its card; None where it does not say."""

    reference: Reference  # pinned to its newest commit
    method: str
    category: str
    image_auroc: float | None
    predict_fps: float | None
    size_mib: float | None
    licence: str | None
    downloads: int
    updated: str
    is_private: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"reference": str(self.reference)}


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


def push(
    model: Detector | str,
    repo_id: str,
    *,
    private: bool = True,
    category: str = "",
    licence: str = "other",
    data_terms: str = "",
    dataset: str = "",
    evaluation: Accuracy | None = None,
    preview: ImageLike | None = None,
    learned_digests: list[str] | None = None,
    overwrite_card: bool = False,
    token: str | bool | None = None,
) -> Pushed:
    """Give a fitted model to the Hub, in one commit. Pictures it learned from are never part of it.

    Files of other names that are there stay. So does a model card that somebody wrote or edited.

    Args:
        model: a fitted detector, or the reference of a local model.
        repo_id: `owner/name`; made where it is not there. `private` only matters then.
        category: what it was fitted on, in a few words such as "hex nut".
        licence: of the model, as the Hub names licences.
        data_terms: under which terms its pictures may be used; said in the card.
        dataset: where those pictures are on the Hub, `owner/name`; empty where they are not.
        evaluation: measured with this model; goes into the card. None is invented.
        preview: a picture that may be published; its heatmap is shown in the gallery. By default a generated one.
        learned_digests: SHA-256 of the pictures given to the fit, for the digest of the list in the card.
        overwrite_card: replace the model card there even where somebody wrote or edited it.
        token: of the Hub; by default `HF_TOKEN` or the one that is logged in, False is none.

    Raises:
        NotFittedError: there is nothing to push.
        HubError: what the Hub refused, and why; or the repository holds a model of another library, or somebody changed
            it meanwhile.
    """
    wanted = parse_reference(repo_id)
    if licence not in LICENCES:
        raise HubError(f"licence is {licence!r}; expected one of {', '.join(LICENCES)}.")
    if category and not CATEGORY_PATTERN.fullmatch(category):
        raise HubError(f"category is {category!r}; expected up to 64 letters, digits, blanks, dashes and underscores.")
    if dataset:
        dataset = parse_reference(dataset).repo_id
    detector = load(model) if isinstance(model, str) else model
    api = HfApi(token=token, library_name=TAG)
    with _explained(wanted, "written"), TemporaryDirectory() as folder:
        source = Source(category, licence, data_terms, dataset, evaluation, tuple(learned_digests or ()))
        write_model(detector, Path(folder), source, wanted.repo_id, preview)
        api.create_repo(wanted.repo_id, private=private, exist_ok=True)
        before = api.model_info(wanted.repo_id, files_metadata=True)
        kept_card = not (_is_our_card(wanted, before, token) or overwrite_card)
        operations = [
            CommitOperationAdd(name, Path(folder) / name) for name in FILES if name != CARD_FILE or not kept_card
        ]
        done = api.create_commit(
            wanted.repo_id,
            operations,
            commit_message=f"{detector.title}{f' for {category}' if category else ''}",
            parent_commit=before.sha,
        )
        return Pushed(replace(wanted, revision=done.oid), str(done.repo_url), bool(before.private), kept_card)


def pull(reference: str, *, device: str = "auto", token: str | bool | None = None) -> Detector:
    """Get a model from the Hub, checked and verified; `verification_` and `reference_` say what came.

    Raises:
        HubError: there is no such repository, it is not one of ours, or it holds what a model does not.
        StoreError: its files are not as they should be.
    """
    return open_folder(*download(parse_reference(reference), token=token), device=device)


def open_folder(folder: Path, pinned: Reference, *, device: str = "auto") -> Detector:
    """The model of a downloaded folder, checked and verified."""
    detector = read_folder(folder, device=device)
    detector.reference_ = pinned
    detector.verification_ = verify_folder(folder, detector)
    return detector


def download(wanted: Reference, *, token: str | bool | None = None) -> tuple[Path, Reference]:
    """The folder in the Hub's cache with a model's files, and the reference pinned to their commit."""
    with _explained(wanted, "read"):
        if hub_constants.is_offline_mode():
            folder = Path(
                snapshot_download(
                    wanted.repo_id, revision=wanted.revision, allow_patterns=list(FILES), local_files_only=True
                )
            )
            return folder, replace(wanted, revision=folder.name)
        info = HfApi(token=token, library_name=TAG).model_info(
            wanted.repo_id, revision=wanted.revision, files_metadata=True
        )
        sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
        _check_files(wanted, sizes)
        if not COMMIT_PATTERN.fullmatch(info.sha or ""):
            raise HubError(f"{wanted}: the server named no commit ({info.sha!r}).")
        folder = snapshot_download(
            wanted.repo_id, revision=info.sha, allow_patterns=list(FILES), token=token, library_name=TAG
        )
        if wanted.revision != info.sha:
            _keep_revision(wanted, info.sha, token)
        return Path(folder), replace(wanted, revision=info.sha)


def size(wanted: Reference, *, token: str | bool | None = None) -> tuple[Reference, int]:
    """A reference pinned to its commit, and how many bytes `download` would get at most; offline it gets none.

    Raises:
        HubError: as `download`.
    """
    with _explained(wanted, "read"):
        if hub_constants.is_offline_mode():
            return wanted, 0
        info = HfApi(token=token, library_name=TAG).model_info(
            wanted.repo_id, revision=wanted.revision, files_metadata=True
        )
        sizes = {sibling.rfilename: sibling.size for sibling in info.siblings or ()}
        _check_files(wanted, sizes)
        return replace(wanted, revision=info.sha or wanted.revision), sum(sizes.get(name) or 0 for name in FILES)


def verify(reference: str, *, device: str = "auto", token: str | bool | None = None) -> Verification:
    """Score the stored picture of a model on the Hub again."""
    return pull(reference, device=device, token=token).verification_


def search(text: str = "", *, owner: str = "", limit: int = 100, token: str | bool | None = None) -> list[HubModel]:
    """Models of this library on the Hub, the most downloaded first.

    Raises:
        HubError: the Hub cannot be asked.
    """
    with _explained(None, "searched"):
        found = HfApi(token=token, library_name=TAG).list_models(
            filter=TAG,
            search=text or None,
            author=owner or None,
            sort="downloads",
            limit=limit,
            full=True,
            cardData=True,
        )
        return [_hub_model(info) for info in found]


def preview(reference: Reference, *, token: str | bool | None = None) -> np.ndarray:
    """The picture that a repository shows, uint8 H×W×3.

    Raises:
        HubError: it has none, or it cannot be had.
    """
    with _explained(reference, "read"):
        info = HfApi(token=token, library_name=TAG).model_info(
            reference.repo_id, revision=reference.revision, files_metadata=True
        )
        size = next((s.size for s in info.siblings or () if s.rfilename == PREVIEW_FILE), None)
        if size is None or size > FILES[PREVIEW_FILE]:
            raise HubError(f"{reference} has no preview that could be shown.")
        path = hf_hub_download(reference.repo_id, PREVIEW_FILE, revision=info.sha, token=token, library_name=TAG)
    return decode(path).pixels


def who_is(token: str) -> str:
    """The name of the account that a token belongs to.

    Raises:
        HubError: it is not valid.
    """
    with _explained(None, "asked who you are"):
        return str(HfApi(token=token, library_name=TAG).whoami()["name"])


def write_model(
    detector: Detector, folder: Path, source: Source, repo_id: str, preview: ImageLike | None = None
) -> None:
    """Write all that a repository holds into an empty folder."""
    probe = generate(detector.working_shape_.resized, np.random.default_rng(0))
    Image.fromarray(probe).save(folder / PROBE_FILE)
    card = str(_card(detector, source, repo_id, probe)).encode("utf-8", errors="backslashreplace")
    (folder / CARD_FILE).write_bytes(card)
    # By its digest the next push knows whether anybody has edited the card since.
    digest = hashlib.sha256(card).hexdigest()
    published = {"category": source.category, "licence": source.licence, "card_sha256": digest}
    of_probe = detector.predict(probe)
    write_folder(detector, folder, {"probe": _scored(detector, of_probe), "published": published})
    shown = detector.read(preview).pixels if preview is not None else probe
    prediction = detector.predict(shown) if preview is not None else of_probe
    Image.fromarray(overlay(shown, prediction)).save(folder / PREVIEW_FILE)


def _card(detector: Detector, source: Source, repo_id: str, picture: np.ndarray) -> ModelCard:
    seconds, n = measure_network(detector, [picture], SPEED_SECONDS)
    fps, measured_on = 1 / seconds.p50, conditions(detector, detector.working_shape_, 1)
    said = f"{fps:.1f} pictures a second, network, score and map, median of {n}: {measured_on}."
    fields = metadata(detector, source, round(fps, 1))
    results = fields.pop("results")
    if results:
        name = source.category or repo_id
        fields |= {
            "model_name": repo_id,
            "eval_results": [
                EvalResult(
                    task_type="image-segmentation",
                    dataset_type="custom",
                    dataset_name=name,
                    metric_type=kind,
                    metric_name=label,
                    metric_value=value,
                )
                for kind, label, value in results
            ],
        }
    return ModelCard(f"---\n{ModelCardData(**fields).to_yaml()}\n---\n\n{body(detector, source, repo_id, said)}")


def verify_folder(folder: Path, detector: Detector) -> Verification:
    """Score a folder's stored picture again with the model that was read from it.

    Raises:
        StoreError: the picture, or what is stored about it, is damaged.
    """
    where = f"{folder.name}/{CONFIG_FILE}"
    try:
        expected = json.loads((folder / CONFIG_FILE).read_bytes())["probe"]
        score, digest, made_on = float(expected["score"]), str(expected["map_sha256"]), str(expected["made_on"])
        precision = str(expected["precision"])
        if not np.isfinite(score):
            raise ValueError("score is not finite")
        probe = decode(folder / PROBE_FILE).pixels
    except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        raise StoreError(f"{where}: what is stored about the probe picture is damaged ({error}).") from error
    found = _scored(detector, detector.predict(probe))
    tolerance = max(TOLERANCES[str(found["precision"])], TOLERANCES.get(precision, 0.0))
    scale = max(abs(score), abs(detector.calibration_.threshold), 1e-12)
    return Verification(
        expected_score=score,
        score=float(found["score"]),
        is_same=found["score"] == score and found["map_sha256"] == digest,
        is_close=abs(float(found["score"]) - score) <= tolerance * scale,
        tolerance=tolerance,
        made_on=made_on[:200],
    )


def _scored(detector: Detector, prediction: Prediction) -> dict[str, Any]:
    """What is stored about a picture, to be compared after a pull."""
    return {
        "score": prediction.score,
        "map_sha256": hashlib.sha256(np.ascontiguousarray(prediction.anomaly_map).tobytes()).hexdigest(),
        "made_on": detector.device.type,
        "precision": str(detector.dtype).removeprefix("torch."),
    }


def _is_our_card(wanted: Reference, there: Any, token: str | bool | None) -> bool:
    """Whether the model card of a repository may be replaced: there is none, or it is as it was pushed.

    Raises:
        HubError: the repository holds a model of something else, which would be overwritten.
    """
    sizes = {sibling.rfilename: sibling.size for sibling in there.siblings or ()}

    def content(name: str) -> bytes | None:
        if name not in sizes or (sizes[name] or 0) > FILES[name]:
            return None  # what is larger is none of ours
        path = hf_hub_download(wanted.repo_id, name, revision=there.sha, token=token, library_name=TAG)
        return Path(path).read_bytes()

    config: object = None
    if CONFIG_FILE in sizes or TENSOR_FILE in sizes:
        with suppress(ValueError, RecursionError):
            config = json.loads(content(CONFIG_FILE) or b"null")
        if not isinstance(config, dict) or not all(part in config for part in PARTS):
            raise HubError(
                f"{wanted.repo_id} holds a model that is not of this library, and would lose it. Push to another "
                f"repository, or delete its {CONFIG_FILE} and {TENSOR_FILE} first."
            )
    if CARD_FILE not in sizes:
        return True
    published = config.get("published") if isinstance(config, dict) else None
    pushed = published.get("card_sha256") if isinstance(published, dict) else None
    card = content(CARD_FILE)
    return card is not None and hashlib.sha256(card).hexdigest() == pushed


def _keep_revision(wanted: Reference, commit: str, token: str | bool | None) -> None:
    """Have the cache know which commit a branch or a tag is, so that it is found there without a network."""
    api, asked = HfApi(token=token, library_name=TAG), {"repo_id": wanted.repo_id, "revision": wanted.revision}
    try:
        if api.resolve_revision(**asked, local_files_only=True).resolved == commit:
            return
    except RevisionResolutionError:
        pass  # not known yet
    api.resolve_revision(**asked)


def _check_files(wanted: Reference, sizes: dict[str, int | None]) -> None:
    missing = [name for name in NEEDED if name not in sizes]
    if missing:
        raise HubError(f"{wanted} is not a model of this library: it has no {', '.join(missing)}.")
    for name, limit in FILES.items():
        if (sizes.get(name) or 0) > limit:
            raise HubError(f"{wanted}: {name} has {sizes[name]:,} bytes, more than the {limit:,} that are accepted.")


def _hub_model(info: Any) -> HubModel:
    data = info.card_data.to_dict() if info.card_data is not None else {}
    results = info.card_data.eval_results or () if info.card_data is not None else ()
    tags = set(info.tags or ())
    ours = data.get("admodels") if isinstance(data.get("admodels"), dict) else {}

    def number(value: Any) -> float | None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number and abs(value) < 2**53 and math.isfinite(value) else None

    named = [tag.removeprefix("license:") for tag in sorted(map(str, tags)) if tag.startswith("license:")]
    return HubModel(
        reference=Reference(info.id, info.sha or "main"),
        method=_shown(ours.get("method")),
        category=_shown(ours.get("category")),
        image_auroc=number(next((r.metric_value for r in results if r.metric_type == "auroc"), None)),
        predict_fps=number(ours.get("predict_fps")),
        size_mib=number(ours.get("size_mib")),
        licence=_shown(named[0] if named else data.get("license")) or None,
        downloads=int(info.downloads or 0),
        updated=info.last_modified.date().isoformat() if info.last_modified else "",
        is_private=bool(info.private),
    )


def _shown(value: object) -> str:
    """A name from a stranger's card: one short line of characters that can be seen; empty where it is no text."""
    if not isinstance(value, str):
        return ""
    words = " ".join(value.split())[: 4 * MAX_SHOWN]
    return "".join(c for c in words if not unicodedata.category(c).startswith("C"))[:MAX_SHOWN]


@contextmanager
def _explained(wanted: Reference | None, done: str) -> Iterator[None]:
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
            f"{name} was not found: it does not exist, or it is private and you are not logged in with an account "
            "that may see it."
        ) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise HubError(
            f"{name} is not in the cache here, and the Hub cannot be reached (or HF_HUB_OFFLINE is set)."
        ) from error
    except HfHubHTTPError as error:
        raise HubError(f"{name} could not be {done}: {_reason(error)}") from error
    except Exception as error:
        # The client lets its HTTP library's own errors through, httpx in one release and httpx2 in another.
        if not isinstance(error, OSError) and not type(error).__module__.startswith("httpx"):
            raise
        raise HubError(f"{name}: the Hub cannot be reached ({type(error).__name__}). Try again later.") from error


def _reason(error: HfHubHTTPError) -> str:
    status = error.response.status_code if error.response is not None else 0
    known = {
        401: "you are not logged in, or the token is not valid any more. Log in, or set HF_TOKEN.",
        403: "this account may not write there. Use a token with write access to that owner.",
        409: "somebody changed the repository meanwhile. Look at it, then push again.",
        412: "somebody changed the repository meanwhile. Look at it, then push again.",
        413: "it is too large for the Hub.",
        429: "too many requests. Wait a few minutes.",
    }
    return known.get(status, f"the Hub answered with status {status}. Try again later.")
