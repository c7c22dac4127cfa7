"""Pictures known to be defective, kept with a saved model: what it said of them, and on this machine the pictures too.

Digests and scores are a field of the model's configuration, so a zip takes them along. The pictures lie in a folder
beside it that nothing takes along.
"""

import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIELD = "known_defects"  # of the configuration; the folder has its name too
N_HEX = 64  # digits of a SHA-256
MOST = 10_000  # that are read


@dataclass(frozen=True)
class KnownDefect:
    """A picture known to be defective.

    Attributes:
        digest: SHA-256 of its contents (`content_digest`).
        score: that the model gave it.
        file: the picture, named as it was; None where only its digest is known.
    """

    digest: bytes
    score: float
    file: Path | None = None


def stated(defects: Iterable[KnownDefect]) -> dict[str, Any]:
    """What the configuration says of them; nothing where there are none."""
    said = [{"sha256": defect.digest.hex(), "score": defect.score} for defect in defects]
    return {FIELD: said} if said else {}


def read(config: Mapping[str, Any], folder: Path) -> tuple[KnownDefect, ...]:
    """Those that a configuration states, with the pictures that lie in its folder.

    Anybody may have written it: what is not a digest with a finite score is left out, since no verdict depends on it.
    """
    said = config.get(FIELD)
    found: dict[bytes, KnownDefect] = {}
    for entry in said[:MOST] if isinstance(said, list) else ():
        digest, score = (entry.get("sha256"), entry.get("score")) if isinstance(entry, dict) else (None, None)
        is_score = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
        if is_score and isinstance(digest, str) and len(digest) == N_HEX and set(digest) <= set("0123456789abcdef"):
            file = next((path for path in (folder / FIELD / digest).glob("*") if path.is_file()), None)
            found[bytes.fromhex(digest)] = KnownDefect(bytes.fromhex(digest), float(score), file)
    return tuple(found.values())


def write_pictures(defects: Iterable[KnownDefect], folder: Path) -> None:
    """Copy the pictures that are here into a model's folder, a folder of its own for each, since names may be alike.

    Raises:
        OSError: one cannot be read, or there is no space.
    """
    for defect in defects:
        if defect.file is not None:
            place = folder / FIELD / defect.digest.hex()
            place.mkdir(parents=True)
            shutil.copyfile(defect.file, place / defect.file.name)
