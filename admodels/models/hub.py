"""Models on the Hugging Face Hub: push, pull, search, verify.

Of a repository only what `PULLED_FILES` names is ours: other files stay as they are, and are never downloaded. What is
pulled is pinned to a commit, checked as any saved model is, and then scores a stored picture again: the model that
arrives is the one that was sent.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` mean what they mean to `huggingface_hub`.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_token,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub import constants as hub_constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionResolutionError

from admodels.core.calibration import Calibration
from admodels.core.detector import Detector
from admodels.core.results import FitReport
from admodels.errors import HubError
from admodels.evaluation.accuracy import Accuracy
from admodels.models.card import CATEGORY_PATTERN, LICENCES, NOT_STATED, TAG, Source
from admodels.models.format import CONFIG_FILE, TENSOR_FILE, read_config, read_folder
from admodels.models.hub_errors import WRITTEN, explained, one_line, uploading
from admodels.models.publishing import (
    CARD_FILE,
    FILES,
    ORIGINAL_FILE,
    PREVIEW_FILE,
    PULLED_FILES,
    write_model,
)
from admodels.models.references import PREFIX, Reference, parse_reference
from admodels.models.store import Store
from admodels.models.uploads import commit, limited
from admodels.models.verification import PROBE_FILE, Verification, verify_folder
from admodels.pictures.images import ImageLike, decode

ONNX_FILE = "onnx/model.onnx"  # where programs of the Hub look for one; no reader of ours needs it
NEEDED = (CONFIG_FILE, TENSOR_FILE, PROBE_FILE)
PARTS = ("method", "calibration", "working_shape")  # fields by which a configuration is known as ours
COMMIT_PATTERN = re.compile(r"[0-9a-f]{40}")
MAX_SHOWN, MAX_TERMS = 64, 1000  # characters of a name, and of terms, from a stranger's card


@dataclass(frozen=True)
class Pushed:
    """Where a model went.

    Attributes:
        reference: pinned to the commit.
        kept_card: the model card there is not one that was pushed from here and left as it was, so it was kept; it may
            describe an earlier model.
        notices: what the user should know: that the repository has another name now, or of the ONNX file.
        predict_fps: pictures a second, as measured for the card.
    """

    reference: Reference
    url: str
    is_private: bool
    kept_card: bool = False
    notices: tuple[str, ...] = ()
    predict_fps: float | None = None


@dataclass(frozen=True)
class Pulled:
    """A model of the Hub.

    Attributes:
        reference: pinned to the commit that it came from.
        verification: what scoring its stored picture again gave.
        picture: a file with the picture that was published with it, to try it on; None where there is none.
        licence, data_terms: of the model and of its pictures, as they were published; empty where it does not say.
    """

    detector: Detector
    reference: Reference
    verification: Verification
    picture: Path | None = None
    licence: str = ""
    data_terms: str = ""


@dataclass(frozen=True)
class HubModel:
    """What a search shows of a repository, from its card; None where it does not say.

    Attributes:
        measured_on: the name of the test set that `image_auroc` was measured on, and `n_test` its pictures.
    """

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
    measured_on: str = ""
    n_test: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"reference": str(self.reference)}


@dataclass(frozen=True)
class Held:
    """The model that a repository holds now, as its configuration and its card state it; nothing else was downloaded.

    Attributes:
        about: what its card says; its reference is pinned to the commit.
        method: its key among the methods.
        options: all of them, as `DetectorConfig.stored` gives them.
        pictures_digest: of the good pictures it learned from (`card.pictures_digest`); empty where it does not say.
        licence: that it was pushed under; empty where it does not say.
    """

    about: HubModel
    method: str
    options: dict[str, Any]
    pictures_digest: str
    licence: str
    calibration: Calibration
    report: FitReport


class Hub:
    """Models to and from the Hub.

    Args:
        store: the models of this machine, and the methods that a model may be of.
        write_onnx: writes a detector as a file for other programs; takes its source, licence and data terms as well.
    """

    def __init__(self, store: Store, write_onnx: Callable[..., Any]) -> None:
        self._store, self._write_onnx = store, write_onnx

    def push(
        self,
        model: Detector | str,
        repo_id: str,
        *,
        private: bool = True,
        category: str = "",
        licence: str = NOT_STATED,
        data_terms: str = "",
        dataset: str = "",
        evaluation: Accuracy | None = None,
        preview: ImageLike | None = None,
        learned_digests: list[str] | None = None,
        overwrite_card: bool = False,
        onnx: bool = False,
        token: str | bool | None = None,
    ) -> Pushed:
        """Publish a fitted model, in one commit. Pictures it learned from are never part of it.

        Files of other names that are there stay. So does a model card that somebody wrote or edited.

        Args:
            model: a fitted detector, or the reference of a local model.
            repo_id: `owner/name`; created if missing. `private` only matters then. If it was renamed, the model goes to
                the repository's new name.
            category: what it was fitted on, in a few words such as "hex nut".
            licence: of the model, as the Hub names licences.
            data_terms: under which terms its pictures may be used; said in the card.
            dataset: where those pictures are on the Hub, `owner/name`; empty where they are not.
            evaluation: measured with this model; goes into the card. None is invented.
            preview: a picture that may be published, with its heatmap, which the gallery shows, and without it, to try
                the model on; of at most 1024 pixels a side. By default a generated one, which says nothing of parts.
            learned_digests: SHA-256 of the pictures given to the fit, for the digest of the list in the card.
            overwrite_card: replace the model card there even where somebody wrote or edited it.
            onnx: also push the model as `onnx/model.onnx`, for programs without PyTorch (`admodels.export`). Otherwise
                one that is there goes, since it would be another model's.
            token: of the Hub; by default `HF_TOKEN` or the one that is logged in, False is none.

        Raises:
            NotFittedError: there is nothing to push.
            ExportError: the model cannot be written as ONNX.
            HubError: what the Hub refused, and why; or the repository holds a model of another library, or somebody
                changed it meanwhile.
        """
        wanted = parse_reference(repo_id)
        dataset = check_about(category, licence, dataset)
        detector = self._store.load(model) if isinstance(model, str) else model
        api = HfApi(token=token, library_name=TAG)
        with explained(wanted, WRITTEN), TemporaryDirectory() as folder:
            notices: tuple[str, ...] = ()
            if (name := _name_there(api, wanted)) != wanted.repo_id:
                notices = (f"{wanted.repo_id} is called {name} now, so the model went there.",)
                wanted = replace(wanted, repo_id=name)
            source = Source(category, licence, data_terms, dataset, evaluation, tuple(learned_digests or ()))
            fps = write_model(detector, Path(folder), source, wanted.repo_id, preview)
            if onnx:
                about = {"source": f"{PREFIX}{wanted.repo_id}", "licence": licence, "data_terms": data_terms}
                notices += self._write_onnx(detector, Path(folder) / ONNX_FILE, **about).notices
            api.create_repo(wanted.repo_id, private=private, exist_ok=True)
            before = api.model_info(wanted.repo_id, files_metadata=True)
            kept_card = not (_is_our_card(wanted, before, token) or overwrite_card)
            operations = [
                CommitOperationAdd(name, Path(folder) / name) for name in FILES if name != CARD_FILE or not kept_card
            ]
            there = {sibling.rfilename for sibling in before.siblings or ()}
            for name, is_wanted in ((ORIGINAL_FILE, preview is not None), (ONNX_FILE, onnx)):
                if is_wanted:
                    operations.append(CommitOperationAdd(name, Path(folder) / name))
                elif name in there:  # it is another model's
                    operations.append(CommitOperationDelete(name))
            with uploading(wanted):
                message = f"{detector.title}{f' for {category}' if category else ''}"
                done = commit(api, wanted.repo_id, operations, message=message, parent=before.sha)
            reference = replace(wanted, revision=done.oid)
            return Pushed(reference, str(done.repo_url), bool(before.private), kept_card, notices, fps)

    def pull_verified(self, reference: str, *, device: str = "auto", token: str | bool | None = None) -> Pulled:
        """Get a model, checked and verified.

        Raises:
            HubError: there is no such repository, it is not one of ours, or it holds what a model does not.
            StoreError: its files are not as they should be.
        """
        return self.open_folder(*self.download(parse_reference(reference), token=token), device=device)

    def open_folder(self, folder: Path, pinned: Reference, *, device: str = "auto") -> Pulled:
        """The model of a downloaded folder, checked and verified."""
        detector = read_folder(folder, self._store.methods, device=device)
        said = _published(json.loads((folder / CONFIG_FILE).read_bytes()))
        licence = _shown(said.get("licence"))
        return Pulled(
            detector,
            pinned,
            verify_folder(folder, detector),
            _own_picture(folder, said),
            licence="" if licence == NOT_STATED else licence,
            data_terms=_shown(said.get("data_terms"), MAX_TERMS),
        )

    def verify(self, reference: str, *, device: str = "auto", token: str | bool | None = None) -> Verification:
        """Score the stored picture of a model on the Hub again.

        Raises:
            HubError, StoreError: as `pull_verified`.
        """
        return self.pull_verified(reference, device=device, token=token).verification

    def held(self, repo_id: str, *, token: str | bool | None = None) -> Held | None:
        """The model that a repository holds now; None where there is no repository, or no model in it yet.

        Raises:
            HubError: the Hub cannot be asked, or the repository holds a model of another library.
            StoreError: its configuration is not one that this version reads.
        """
        wanted = parse_reference(repo_id)
        with explained(wanted, "read"):
            try:
                there = HfApi(token=token, library_name=TAG).model_info(wanted.repo_id, files_metadata=True)
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return None
            _is_our_card(wanted, there, token)  # raises where it is not ours
            if not {sibling.rfilename for sibling in there.siblings or ()}.issuperset(NEEDED):
                return None
            path = Path(hf_hub_download(wanted.repo_id, CONFIG_FILE, revision=there.sha, token=token, library_name=TAG))
        config = read_config(path.parent, self._store.methods)
        published = _published(config)
        return Held(
            about=_hub_model(there),
            method=config["method"],
            options=config["options"].stored(),
            pictures_digest=str(published.get("pictures_sha256", "")),
            licence=_shown(published.get("licence")),
            calibration=config["calibration"],
            report=config["fit"],
        )

    def download(self, wanted: Reference, *, token: str | bool | None = None) -> tuple[Path, Reference]:
        """The folder in the Hub's cache with a model's files, and the reference pinned to their commit.

        The reference has the name that the repository has now, which may not be the one that was asked for.
        """
        with explained(wanted, "read"):
            if hub_constants.is_offline_mode():
                folder = Path(
                    snapshot_download(
                        wanted.repo_id,
                        revision=wanted.revision,
                        allow_patterns=list(PULLED_FILES),
                        local_files_only=True,
                    )
                )
                return folder, replace(wanted, revision=folder.name)
            pinned, sizes = _listing(wanted, token)
            _check_files(wanted, sizes)
            if not COMMIT_PATTERN.fullmatch(pinned.revision):
                raise HubError(f"{wanted}: the server named no commit ({pinned.revision!r}).")
            folder = limited(
                lambda: snapshot_download(
                    pinned.repo_id,
                    revision=pinned.revision,
                    allow_patterns=list(PULLED_FILES),
                    token=token,
                    library_name=TAG,
                ),
                _n_bytes(sizes),
                f"{wanted} could not be read",
            )
            if wanted.revision != pinned.revision:
                _keep_revision(replace(wanted, repo_id=pinned.repo_id), pinned.revision, token)
            return Path(folder), pinned

    def size(self, wanted: Reference, *, token: str | bool | None = None) -> tuple[Reference, int]:
        """A reference pinned to its commit, and how many bytes `download` would get at most; offline it gets none.

        Raises:
            HubError: as `download`.
        """
        with explained(wanted, "read"):
            if hub_constants.is_offline_mode():
                return wanted, 0
            pinned, sizes = _listing(wanted, token)
            _check_files(wanted, sizes)
            return replace(pinned, revision=pinned.revision or wanted.revision), _n_bytes(sizes)

    def search(
        self, text: str = "", *, owner: str = "", limit: int = 100, token: str | bool | None = None
    ) -> list[HubModel]:
        """Models of this library on the Hub, the most downloaded first.

        Raises:
            HubError: the Hub cannot be asked.
        """
        with explained(None, "searched"):
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

    def preview(self, reference: Reference, *, token: str | bool | None = None) -> np.ndarray:
        """The picture that a repository shows, uint8 H×W×3.

        Raises:
            HubError: it has none, or it cannot be had.
        """
        with explained(reference, "read"):
            pinned, sizes = _listing(reference, token)
            size = sizes.get(PREVIEW_FILE)
            if size is None or size > FILES[PREVIEW_FILE]:
                raise HubError(f"{reference} has no preview that could be shown.")
            asked = {"revision": pinned.revision or None, "token": token, "library_name": TAG}
            path = limited(
                lambda: hf_hub_download(pinned.repo_id, PREVIEW_FILE, **asked), size, f"{reference} could not be read"
            )
        return decode(path).pixels

    def check_may_write(self, token: str | bool | None = None) -> str:
        """The name of the account that may push, before work whose result is to be pushed.

        Raises:
            HubError: nobody is logged in, the token is not valid any more, or may only read.
        """
        if token is False or (token is None and get_token() is None):
            raise HubError("you are not logged in. Run `hf auth login`, or set HF_TOKEN to a token with write access.")
        who = _whoami(token)
        role = ((who.get("auth") or {}).get("accessToken") or {}).get("role")
        if role == "read":
            raise HubError(f"the token of {who['name']} may only read. Use one with write access.")
        return str(who["name"])

    def who_is(self, token: str) -> str:
        """The name of the account that a token belongs to.

        Raises:
            HubError: it is not valid.
        """
        return str(_whoami(token)["name"])


def _whoami(token: str | bool | None) -> dict[str, Any]:
    """What the Hub says of the account that a token belongs to."""
    with explained(None, "asked who you are"):
        return HfApi(token=token, library_name=TAG).whoami()


def check_about(category: str, licence: str, dataset: str) -> str:
    """See that a card can say this of a model; the data set's plain name.

    Raises:
        HubError: one of them is not as the Hub has them; the message says what was expected.
    """
    if licence not in LICENCES:
        raise HubError(f"licence is {licence!r}; expected one of {', '.join(LICENCES)}.")
    if category and not CATEGORY_PATTERN.fullmatch(category):
        raise HubError(f"category is {category!r}; expected up to 64 letters, digits, blanks, dashes and underscores.")
    return parse_reference(dataset).repo_id if dataset else ""


def _name_there(api: HfApi, wanted: Reference) -> str:
    """The repository's name now, which is another if it was renamed; the wanted one where there is none yet.

    To ask is what tells: a repository made under the old name would end the way from there to the new one.
    """
    try:
        return api.model_info(wanted.repo_id).id
    except RepositoryNotFoundError:
        return wanted.repo_id


def _n_bytes(sizes: dict[str, int | None]) -> int:
    """What a pull gets at most."""
    return sum(sizes.get(name) or 0 for name in PULLED_FILES)


def _listing(wanted: Reference, token: str | bool | None) -> tuple[Reference, dict[str, int | None]]:
    """What a reference stands for now, and the sizes of its files by name; the server may name no commit."""
    api = HfApi(token=token, library_name=TAG)
    info = api.model_info(wanted.repo_id, revision=wanted.revision, files_metadata=True)
    return Reference(info.id, info.sha or ""), {sibling.rfilename: sibling.size for sibling in info.siblings or ()}


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
    card = content(CARD_FILE)
    return card is not None and hashlib.sha256(card).hexdigest() == _published(config).get("card_sha256")


def _published(config: object) -> dict[str, Any]:
    """What a configuration says of the push that it came with; nothing where it does not."""
    published = config.get("published") if isinstance(config, dict) else None
    return published if isinstance(published, dict) else {}


def _own_picture(folder: Path, published: Mapping[str, Any]) -> Path | None:
    """The picture that was published with the model of this folder; not one that somebody put beside it."""
    path = folder / ORIGINAL_FILE
    if not path.is_file():
        return None
    digest = published.get("original_sha256")
    return path if hashlib.sha256(path.read_bytes()).hexdigest() == digest else None


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
    for name, limit in PULLED_FILES.items():
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

    # Cards of earlier versions have it in the model-index only, as a metric of another name.
    measured = next((result for result in results if result.metric_type in ("roc_auc", "auroc")), None)
    auroc, on = (measured.metric_value, measured.dataset_name) if measured is not None else (None, "")
    if "image_auroc" in ours:
        auroc, on = ours["image_auroc"], ours.get("measured_on")
    auroc = number(auroc)
    n_test = number(ours.get("n_test"))
    named = [tag.removeprefix("license:") for tag in sorted(map(str, tags)) if tag.startswith("license:")]
    return HubModel(
        reference=Reference(info.id, info.sha or "main"),
        method=_shown(ours.get("method")),
        category=_shown(ours.get("category")),
        image_auroc=auroc,
        predict_fps=number(ours.get("predict_fps")),
        size_mib=number(ours.get("size_mib")),
        licence=_shown(named[0] if named else data.get("license")) or None,
        downloads=int(info.downloads or 0),
        updated=info.last_modified.date().isoformat() if info.last_modified else "",
        is_private=bool(info.private),
        measured_on=_shown(on) if auroc is not None else "",
        n_test=int(n_test) if auroc is not None and n_test is not None and n_test >= 1 else None,
    )


def _shown(value: object, limit: int = MAX_SHOWN) -> str:
    """A name from a stranger's card: one short line of characters that can be seen; empty where it is no text."""
    return one_line(value, limit) if isinstance(value, str) else ""
