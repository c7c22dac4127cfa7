"""From a backbone's feature maps to patch vectors, and from patch scores back to a smooth map."""

import torch
import torch.nn.functional as F
from torch import Tensor

from admodels.errors import OptionError
from admodels.options import option
from admodels.runtime.backbone_specs import backbone_spec
from admodels.runtime.tracing import kept


def count_padding_option() -> bool:
    """The option of methods that average locally."""
    return option(
        True,
        "Count the zeros beyond the picture's border in the local average: they damp the noise of its border.",
        before=False,
    )


def parse_layers(layers: str, backbone: str) -> tuple[int, ...]:
    """Positions, among a backbone's maps, of those at the given strides, such as "8,16"; fine ones first.

    Raises:
        OptionError: not a list of strides that this backbone has.
    """
    strides = backbone_spec(backbone).strides
    parts = [part.strip() for part in layers.split(",")]
    if not all(part.isdigit() and int(part) in strides for part in parts) or len(set(parts)) < len(parts):
        valid = ",".join(map(str, sorted(set(strides))))
        raise OptionError(
            f"layers is {layers!r}; expected strides of feature maps, each once, separated by commas. "
            f"{backbone} has {valid}: use layers={valid}, or some of them."
        )
    wanted = {int(part) for part in parts}
    return tuple(i for i, stride in enumerate(strides) if stride in wanted)


def local_average(feature_map: Tensor, count_padding: bool) -> Tensor:
    """Mean over each position's 3×3 neighbourhood, as in PatchCore, section 3.1; B×C×h×w.

    Args:
        count_padding: beyond the border there are zeros, and they count, as in PatchCore's published code. The network
            itself pads with zeros, so that vectors at the border are noisy; this damps them. Else the mean is over what
            is there.
    """
    return F.avg_pool2d(feature_map, 3, stride=1, padding=1, count_include_pad=count_padding)


def concatenate(maps: list[Tensor]) -> Tensor:
    """Concatenate feature maps B×C×h×w at the largest map's size, to patch vectors (B, h·w, ΣC) row by row.

    Coarser maps are brought up bilinearly. Measured for PaDiM-iSVD on Magnetic Tile (exact PCA, 16 to 64 dimensions),
    that gives 0.7 to 5.7 points more image AUROC than repeating the nearest vector.
    """
    size = maps[0].shape[-2:]
    same = [m if m.shape[-2:] == size else F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]
    return torch.cat([m.permute(0, 2, 3, 1) for m in same], dim=-1).flatten(1, 2)


def realign(patch_map: Tensor, size: tuple[int, int], sigma: float = 4.0) -> Tensor:
    """Upsample maps (B, h, w) bilinearly to `size` and blur them with a Gaussian of `sigma` pixels.

    Both are linear and separable, so that one small matrix product on each side does the work of both.
    """
    rows = blur_matrix(patch_map.shape[1], size[0], sigma, str(patch_map.device))
    columns = blur_matrix(patch_map.shape[2], size[1], sigma, str(patch_map.device))
    return rows @ patch_map @ columns.T


@kept(maxsize=32)
def blur_matrix(n_from: int, n_to: int, sigma: float, device: str) -> Tensor:
    """Bilinear upsampling of a line and a Gaussian blur in one, float32 (n_to, n_from).

    The blur reflects at the border and is cut at four sigma.
    """
    from scipy.ndimage import gaussian_filter1d  # here, since it takes a while that only a fit or prediction needs

    up = F.interpolate(torch.eye(n_from)[None], n_to, mode="linear", align_corners=False)[0].T
    return torch.from_numpy(gaussian_filter1d(up.double().numpy(), sigma, axis=0)).float().to(device)
