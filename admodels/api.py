"""What programs call: detectors of any method by name, the models of this machine, and those on the Hub.

The rooms below know no list of methods; they are given `DETECTORS` from here.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from admodels.core.detector import Detector
from admodels.core.method import Method
from admodels.deploy.exporting import Exported, write_onnx
from admodels.errors import OptionError
from admodels.evaluation.categories import find_categories
from admodels.methods.registry import METHODS
from admodels.models.card import Source
from admodels.models.catalogue import Catalogue, OnWait, default_title
from admodels.models.hub import Hub, Pulled
from admodels.models.references import PREFIX
from admodels.models.store import LOCAL_PREFIX, Store
from admodels.options import make_options
from admodels.pictures.images import ImageLike
from admodels.tiling.method import TiledEnsemble

DETECTORS: Mapping[str, type[Method]] = {**METHODS, "tiled": TiledEnsemble}  # an ensemble of any of the methods

LOCAL = Store(DETECTORS)
save, load, list_models, delete, rename = LOCAL.save, LOCAL.load, LOCAL.list_models, LOCAL.delete, LOCAL.rename
HUB = Hub(LOCAL, write_onnx)
push, pull_verified, verify, search = HUB.push, HUB.pull_verified, HUB.verify, HUB.search


def create(method: str, /, *, device: str = "auto", **options: Any) -> Detector:
    """Build an unfitted detector.

    Args:
        method: a key of `DETECTORS`.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        options: the method's options; every name is checked.

    Raises:
        OptionError: unknown method, unknown option, or a value outside its range.
    """
    if method not in DETECTORS:
        raise OptionError(f"unknown method {method!r}; expected one of {', '.join(DETECTORS)}.")
    cls = DETECTORS[method]
    return Detector(cls(make_options(cls.Config, options), device=device))


def export(
    model: Detector | str,
    path: str | Path,
    *,
    precision: str = "float32",
    good: Sequence[ImageLike] = (),
    licence: str = "",
    data_terms: str = "",
) -> Exported:
    """Write a model as one ONNX file, which scores alike in every runtime, without PyTorch and without this library.

    Args:
        model: a fitted detector, or a reference: local:name, or hf-hub:owner/name@revision.
        path: of the file.
        precision: float32; or int8, kept only where verdicts on `good` stay and scores keep their order.
        good: for int8, at least 10 pictures of good parts, best ones that were held out.
        licence, data_terms: of the model and of its pictures, for those who get the file; of a model of the Hub those
            that it was pushed under, unless others are given.

    Raises:
        NotFittedError: nothing was learned yet.
        StoreError, HubError: there is no such model.
        ExportError: packages for it are missing, the model is too large for the format, or int8 changes it too much.
        OutputError: the file cannot be written there.
    """
    source = ""
    if isinstance(model, str) and model.startswith(PREFIX):
        pulled = pull_verified(model, device="cpu")
        _warn_of(pulled)
        model, source = pulled.detector, str(pulled.reference)
        licence, data_terms = licence or pulled.licence, data_terms or pulled.data_terms
    elif isinstance(model, str):
        model, source = load(model, device="cpu"), f"{LOCAL_PREFIX}{model.removeprefix(LOCAL_PREFIX)}"
    more = {"source": source, "licence": licence, "data_terms": data_terms}
    return write_onnx(model, path, precision=precision, good=good, **more)


def catalogue(
    root: str | Path,
    owner: str,
    method: str = "fapm",
    *,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    private: bool = True,
    licence: str = "other",
    data_terms: str = "",
    dataset: str = "",
    title: str = "",
    with_picture: bool = False,
    token: str | bool | None = None,
    on_wait: OnWait | None = None,
) -> Catalogue:
    """The models of all categories of a data set on the Hub: `publish()` fits, measures and pushes what is not there.

    Each goes to a repository of its own, `owner/<category>-<method>`, and all of them into a collection.

    Args:
        root: one category, or a folder of them; what has no test pictures is not measured.
        owner: user or organisation.
        options: of the method.
        private: the repositories and the collection, where they are created now.
        licence, data_terms, dataset: for all cards, as for `push`.
        title: of the collection; by default the folder's name and the method.
        with_picture: publish one defective test picture of each category, with its heatmap and without.
        on_wait: told how long is waited, and why, before a Hub that is busy is asked again.

    Raises:
        DataError: there is no category, or its name gives none for a repository.
        OptionError: unknown method, unknown option, or a value outside its range.
        HubError: the owner, licence, data set or title is not as the Hub takes it.
    """

    def new_detector() -> Detector:
        return create(method, device=device, **dict(options or {}))

    detector = new_detector()
    return Catalogue(
        HUB,
        new_detector,
        find_categories(root),
        owner,
        about=Source("", licence, data_terms, dataset),
        title=title or default_title(Path(root), detector),
        private=private,
        with_picture=with_picture,
        token=token,
        on_wait=on_wait,
    )


def pull(reference: str, *, device: str = "auto", token: str | bool | None = None) -> Detector:
    """Get a model from the Hub, checked and verified; a warning where it does not score here as its maker saw it.

    `pull_verified` gives the commit and the verification as well.

    Raises:
        HubError: there is no such repository, it is not one of ours, or it holds what a model does not.
        StoreError: its files are not as they should be.
    """
    pulled = pull_verified(reference, device=device, token=token)
    _warn_of(pulled)
    return pulled.detector


def _warn_of(pulled: Pulled) -> None:
    if not pulled.verification.is_close:
        warnings.warn(f"{pulled.reference}: {pulled.verification.statement}", stacklevel=3)
