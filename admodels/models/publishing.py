"""The files of a model's repository on the Hub, written into a folder before they are pushed."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from admodels.core.detector import Detector
from admodels.evaluation.timing import conditions, measure_network
from admodels.models.card import Source, card, pictures_digest
from admodels.models.format import CONFIG_FILE, MAX_CONFIG_BYTES, MAX_TENSOR_BYTES, TENSOR_FILE, write_folder
from admodels.models.verification import PROBE_FILE, probe_record
from admodels.pictures.generated import generate
from admodels.pictures.images import ImageLike
from admodels.pictures.render import overlay, shrink

CARD_FILE, PREVIEW_FILE = "README.md", "preview.png"
ORIGINAL_FILE = "preview_original.png"  # the preview's picture without the heatmap: something to try the model on
MAX_PICTURE_BYTES = 8 * 2**20
FILES = {  # and the most that each may hold
    CONFIG_FILE: MAX_CONFIG_BYTES,
    TENSOR_FILE: MAX_TENSOR_BYTES,
    CARD_FILE: 2**20,
    PROBE_FILE: MAX_PICTURE_BYTES,
    PREVIEW_FILE: MAX_PICTURE_BYTES,
}
PULLED_FILES = FILES | {ORIGINAL_FILE: MAX_PICTURE_BYTES}  # it is only there where such a picture was published
SPEED_SECONDS = 0.1  # for the card; nobody wants to wait for a push


def write_model(
    detector: Detector, folder: Path, source: Source, repo_id: str, preview: ImageLike | None = None
) -> float:
    """Write all that a repository holds into an empty folder; the pictures a second that its card states."""
    probe = generate(detector.working_shape_.resized, np.random.default_rng(0))
    Image.fromarray(probe).save(folder / PROBE_FILE)
    seconds, n = measure_network(detector, [probe], SPEED_SECONDS)
    fps, measured_on = 1 / seconds.p50, conditions(detector, detector.working_shape_, 1)
    said = f"{fps:.1f} pictures a second, network, score and map, median of {n}: {measured_on}."
    made = card(detector, source, repo_id, fps, said, preview is not None)
    written = f"{made}\n".encode("utf-8", errors="backslashreplace")
    (folder / CARD_FILE).write_bytes(written)
    # By its digest the next push knows whether anybody has edited the card since.
    digest = hashlib.sha256(written).hexdigest()
    published = {"category": source.category, "licence": source.licence, "card_sha256": digest}
    if source.data_terms:
        published["data_terms"] = source.data_terms
    if source.learned_digests:  # with method and options they tell whether this model is there already
        published["pictures_sha256"] = pictures_digest(source.learned_digests)
    of_probe = detector.predict(probe)
    shown = detector.read(preview).pixels if preview is not None else probe
    if preview is not None:
        Image.fromarray(shrink(shown)).save(folder / ORIGINAL_FILE)  # at the preview's size
        # By its digest a pull knows that the picture is this model's.
        published["original_sha256"] = hashlib.sha256((folder / ORIGINAL_FILE).read_bytes()).hexdigest()
    write_folder(detector, folder, {"probe": probe_record(detector, of_probe), "published": published})
    prediction = detector.predict(shown) if preview is not None else of_probe
    Image.fromarray(overlay(shown, prediction)).save(folder / PREVIEW_FILE)
    return fps
