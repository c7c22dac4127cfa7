"""A tiled ensemble's fit on a Ray cluster: every tile is a task (section 3.2: tiles are independent of each other)."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from admodels.core.detector import State
from admodels.core.results import OnProgress, Progress
from admodels.pictures.images import ImageLike, read_batches
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.cluster import Cluster, fetch

if TYPE_CHECKING:
    from admodels.tiling.method import TiledConfig, TiledEnsemble


def learn_tiles(
    ensemble: "TiledEnsemble", shape: WorkingShape, images: list[ImageLike], on_progress: OnProgress | None
) -> list[State]:
    """The state of each tile's model; the same bits as here, where a worker has as many threads.

    Pictures are decoded and resized once, here: what this process puts into the cluster's memory outlives every machine
    but its own. What tasks had made was lost with theirs, and Ray (2.60) sometimes waited forever to make it again.
    """
    started, n_tiles = time.perf_counter(), ensemble.grid(shape).n_tiles
    states: list[State] = [{} for _ in range(n_tiles)]

    def told(n_done: int) -> None:
        if on_progress is not None:
            done = len(images) * n_done // n_tiles
            on_progress(Progress("learning", done, len(images), time.perf_counter() - started))

    with Cluster(ensemble.config.workers, use_gpu=ensemble.device.type == "cuda") as cluster:
        batches = []
        for prepared in read_batches(images, shape.prepare, ensemble.batch_size(shape), shape.value_range):
            batches.append(cluster.put(prepared))
            told(0)  # may cancel
        device = str(ensemble.device)
        given = (batches, ensemble.config, device, shape, len(images), cluster.n_threads, cluster.n_at_once)
        for i, arrays in cluster.run(_learn_tile, [(tile, *given) for tile in range(n_tiles)], told):
            # Copies, since Ray's arrays cannot be written to and live no longer than its memory.
            states[i] = {
                name: torch.from_numpy(np.array(array)).to(ensemble.statistics_device) for name, array in arrays.items()
            }
    return states


def _learn_tile(
    tile: int,
    batches: list[Any],
    config: "TiledConfig",
    device: str,
    shape: WorkingShape,
    n_images: int,
    n_threads: int,
    n_at_once: int,
) -> dict[str, np.ndarray]:
    """In a task: learn one tile from all pictures."""
    from admodels.tiling.method import TiledEnsemble

    torch.set_num_threads(n_threads)
    ensemble = TiledEnsemble(config, device=device)
    ensemble.take_turns(n_at_once)
    grid = ensemble.grid(shape)
    with torch.inference_mode():
        learner = ensemble.member.new_learner(grid.tile_shape, n_images)
        for reference in batches:
            batch = torch.tensor(fetch(reference))  # a copy, since torch wants memory that it may write to
            learner.add(ensemble.member.encode(grid.cut_one(batch, tile)))
        state = learner.finish()
    return {name: tensor.cpu().numpy() for name, tensor in state.items()}
