"""What a fit will take, said before it starts."""

import numpy as np
import torch

from admodels.core.calibration import split_folds, split_held_out
from admodels.core.fitting import duplicate_groups, n_folds_for, shape_for
from admodels.core.method import Method
from admodels.core.results import Estimate
from admodels.pictures.images import ImageSet, read_batches
from admodels.runtime.exact import exact_products
from admodels.runtime.memory import PeakMemory, available_mib
from admodels.runtime.quiet import quiet_seconds

SCORE_RATIO = 0.5  # time to gather and score held-out pictures over that of their feature pass; measured 0.2 to 0.8


def estimate(method: Method, images: ImageSet, n_folds: int | None) -> Estimate:
    """What a fit on these pictures will take, from short measurements on this machine; nothing is downloaded.

    Raises:
        OptionError: too few pictures, or the method cannot learn in so many folds.
    """
    shape = shape_for(method, images)
    n_images, groups = len(images.images), duplicate_groups(images)
    n_folds = n_folds_for(method, n_folds, n_images, shape)
    if n_folds:
        n_learned = n_held_out = n_images
        n_folds = len(split_folds(groups, n_folds, 0))
    else:
        n_first, n_held_out = map(len, split_held_out(groups, 0.2, 0))
        n_learned = n_images if method.learns_held_out else n_first
    n_probe = min(method.batch_size(shape), n_images)
    probe = [images.images[i] for i in np.linspace(0, n_images - 1, n_probe).astype(int)]
    batch = torch.from_numpy(next(read_batches(probe, shape.prepare, n_probe, shape.value_range)))
    measured = method.to_measure()

    def read_and_encode() -> None:
        for prepared in read_batches(probe, shape.prepare, n_probe, shape.value_range):
            measured.encode(torch.from_numpy(prepared))

    with exact_products(method.device):  # as in the fit
        with PeakMemory(method.device) as peak:
            encoded = measured.encode(batch)  # the first pass loads the network and its kernels
            seconds = quiet_seconds(read_and_encode, method.device, least=1) / n_probe * n_images
            seconds += SCORE_RATIO * seconds * n_held_out / n_images
        cost = method.cost(shape, n_learned)
    learning, held_bytes = cost.seconds, cost.learner_bytes + cost.state_bytes
    if n_folds:  # models of nearly as many pictures, over encoded pictures that are kept
        learning *= n_folds + 1
        held_bytes += cost.state_bytes + sum(m.nbytes for m in encoded) * n_images // n_probe
    return Estimate(
        n_learned=n_learned,
        n_held_out=n_held_out,
        seconds=seconds + learning,
        peak_memory_mib=peak.mib + held_bytes / 2**20,
        available_mib=available_mib(method.device),
        model_mib=cost.state_bytes / 2**20,
        advice=method.memory_advice,
        network=method.network_name,
        download_mib=method.download_mib(),
    )
