"""A tiled ensemble's fit on a Ray cluster: every tile is a task (section 3.2: tiles are independent of each other)."""

import math
import time
from typing import Any

import numpy as np
import torch

from admodels.core.method import DetectorConfig, Method, State
from admodels.core.results import OnProgress, Progress
from admodels.pictures.images import ImageLike, read_batches
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.cluster import Cluster, fetch
from admodels.runtime.exact import exact_products
from admodels.tiling.grid import TileGrid


def turn_share(n_models: int, n_at_once: int) -> float:
    """The part of a fit's time that is left for each model where so many learn at a time."""
    return 1 / math.ceil(n_models / n_at_once)


def learn_tiles(
    member: Method,
    grid: TileGrid,
    shape: WorkingShape,
    images: list[ImageLike],
    batch_size: int,
    time_share: float,
    workers: int | None,
    on_progress: OnProgress | None,
) -> list[State]:
    """The state of each tile's model; the same bits as here, where a worker has as many threads.

    Pictures are decoded and resized once, here: what this process puts into the cluster's memory outlives every machine
    but its own. What tasks had made was lost with theirs, and Ray (2.60) sometimes waited forever to make it again.

    Args:
        member: the tiles' method.
        time_share: of the ensemble; that of each tile follows from how many the cluster runs at a time.
        workers: tiles at a time; by default one for each CPU.
    """
    started, n_tiles = time.perf_counter(), grid.n_tiles
    states: list[State] = [{} for _ in range(n_tiles)]

    def told(n_done: int) -> None:
        if on_progress is not None:
            done = len(images) * n_done // n_tiles
            on_progress(Progress("learning", done, len(images), time.perf_counter() - started))

    with Cluster(workers, use_gpu=member.device.type == "cuda") as cluster:
        batches = []
        for prepared in read_batches(images, shape.prepare, batch_size, shape.value_range):
            batches.append(cluster.put(prepared))
            told(0)  # may cancel
        share = time_share * turn_share(n_tiles, cluster.n_at_once)
        # A task sees its own GPU alone, as the first one, whatever its number is here or on another machine.
        device = member.device.type
        given = (batches, type(member), member.config, device, share, grid, len(images), cluster.n_threads)
        for i, arrays in cluster.run(_learn_tile, [(tile, *given) for tile in range(n_tiles)], told):
            # Copies, since Ray's arrays cannot be written to and live no longer than its memory.
            states[i] = {
                name: torch.from_numpy(np.array(array)).to(member.statistics_device) for name, array in arrays.items()
            }
    return states


def _learn_tile(
    tile: int,
    batches: list[Any],
    method: type[Method],
    config: DetectorConfig,
    device: str,
    time_share: float,
    grid: TileGrid,
    n_images: int,
    n_threads: int,
) -> dict[str, np.ndarray]:
    """In a task: learn one tile from all pictures."""
    torch.set_num_threads(n_threads)
    member = method(config, device=device, time_share=time_share)
    with torch.inference_mode(), exact_products(member.device):  # a worker has settings of its own
        learner = member.learner(grid.tile_shape, n_images)
        for reference in batches:
            batch = torch.tensor(fetch(reference))  # a copy, since torch wants memory that it may write to
            learner.add(member.encode(grid.cut_one(batch, tile)))
        state = learner.finish()
    return {name: tensor.cpu().numpy() for name, tensor in state.items()}
