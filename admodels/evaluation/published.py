"""Figures that papers report on MVTec AD, in percent, to set beside what is measured here."""

from dataclasses import dataclass

TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
OBJECTS = (
    "bottle",
    "cable",
    "capsule",
    "hazelnut",
    "metal_nut",
    "pill",
    "screw",
    "toothbrush",
    "transistor",
    "zipper",
)


@dataclass(frozen=True)
class Published:
    """One paper's table.

    Attributes:
        source: paper, table, backbone.
        rows: category, "textures", "objects" or "all", to image AUROC, pixel AUROC and AUPRO; None where not reported.
    """

    source: str
    rows: dict[str, tuple[float | None, float | None, float | None]]


def _pairs(names: tuple[str, ...], *pairs: tuple[float, float]) -> dict[str, tuple[float, float, None]]:
    return {name: (*pair, None) for name, pair in zip(names, pairs, strict=True)}


PUBLISHED: dict[str, Published] = {
    "fapm": Published(
        "FAPM (Kim et al.), table 1, WideResNet50, 224 px",
        _pairs(TEXTURES, (99.3, 98.9), (98.0, 97.8), (100, 99.0), (99.4, 95.2), (99.3, 94.0))
        | _pairs(
            OBJECTS,
            (100, 98.2),
            (99.5, 98.5),
            (98.6, 99.0),
            (100, 98.6),
            (100, 98.2),
            (96.0, 98.0),
            (95.2, 99.0),
            (100, 98.7),
            (100, 98.2),
            (99.5, 98.6),
        )
        | {"all": (99.0, 98.0, None)},
    ),
    "isvd": Published(
        "PaDiM-iSVD (Lee, Nagai, Minezawa), EfficientNet-b0, 16 dimensions",
        {"textures": (99.2, 95.7, None), "objects": (81.8, 92.4, None)},
    ),
    "efficientad": Published("EfficientAD-S (Batzner et al.)", {"all": (98.8, None, None)}),
    "fastflow": Published("FastFlow, ResNet18, 256 px, 200 steps (Rolih et al.)", {"all": (93.1, None, 89.1)}),
    "reverse_distillation": Published(
        "Reverse Distillation (Deng and Li), WideResNet50, 256 px", {"all": (98.5, 97.8, 93.9)}
    ),
    "tiled": Published("Tiled ensemble (Rolih et al.), PaDiM, ENS9, ResNet18, 512 px", {"all": (89.7, None, 91.0)}),
}
