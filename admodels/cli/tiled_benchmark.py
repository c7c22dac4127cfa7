"""What a tiled ensemble costs beside single models: the settings of its paper, time and memory of a prediction."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from admodels.api import DETECTORS, METHODS, create
from admodels.core.detector import Detector
from admodels.evaluation.timing import conditions, median_seconds, noise_pictures
from admodels.models.format import read_folder, write_folder
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.cluster import Cluster
from admodels.runtime.device import resolve_device, timed
from admodels.runtime.memory import PeakMemory
from admodels.tiling.method import TiledEnsemble

SIDE, TILE = 512, 256  # the paper's
N_PICTURES = 12  # of noise, to fit on
N_ROUNDS = 7
N_FOR_WORKERS = 48

Request = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Latency:
    """Medians of interleaved predictions of one picture, and memory in processes of their own.

    Attributes:
        milliseconds: of SM256, SM512, ENS4, ENS9, and of nine separate models for the nine tiles, one after the other.
        memory_mib: what a prediction of nine tiles adds to the process, the model's own size left out.
    """

    conditions: str
    milliseconds: dict[str, float]
    memory_mib: dict[str, float]


def settings(method: str, options: dict[str, Any]) -> dict[str, Request]:
    """The six settings of the paper's tables, name to method and options; `options` are the method's."""

    def tiled(stride: int, **more: Any) -> Request:
        member = {f"member.{name}": value for name, value in options.items()}
        return "tiled", {"image_size": SIDE, "tile_size": TILE, "stride": stride, "method": method, **member, **more}

    return {
        "SM256": (method, {"image_size": TILE, **options}),
        "SM512": (method, {"image_size": SIDE, **options}),
        "ST4": tiled(TILE, one_model=True),
        "ST9": tiled(TILE // 2, one_model=True),
        "ENS4": tiled(TILE),
        "ENS9": tiled(TILE // 2),
    }


def compare_latency(method: str, options: dict[str, Any], device: str = "auto") -> Latency:
    """Time the settings on noise, which is enough for it, and of networks trained for one step, which are as fast."""
    one_step = {"max_steps": 1} if hasattr(METHODS[method].Config, "max_steps") else {}
    wanted = settings(method, options | one_step)
    pictures = noise_pictures(N_PICTURES, SIDE)
    fitted = {name: _fitted(wanted[name], pictures, device) for name in ("SM256", "SM512", "ENS4", "ENS9")}
    starts = fitted["ENS9"].method.grid(fitted["ENS9"].working_shape_).starts
    crops = [[p[y : y + TILE, x : x + TILE] for p in pictures] for y, x in starts]
    separate = [_fitted(wanted["SM256"], cropped, device) for cropped in crops]
    tiles = [torch.from_numpy(cropped[0])[None] for cropped in crops]
    whole = torch.from_numpy(pictures[0])[None]

    def run(detector: Detector, batch: torch.Tensor) -> Any:
        return lambda: detector.score_batch(batch)

    runs = {name: run(fitted[name], whole) for name in ("SM512", "ENS4", "ENS9")}
    runs["SM256"] = run(fitted["SM256"], tiles[0])
    runs["separate"] = lambda: [d.score_batch(tile) for d, tile in zip(separate, tiles, strict=True)]
    seconds = median_seconds(runs, resolve_device(device), N_ROUNDS)
    memory = {}
    spawn = multiprocessing.get_context("spawn")  # a fork would begin with all that this process holds
    for name in ("SM256", "ENS9"):
        with TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=spawn) as pool:
            write_folder(fitted[name], Path(folder))  # a process that had fitted would reuse what it freed then
            memory[name] = pool.submit(_memory, folder, device, SIDE, TILE).result()
    shape = fitted["ENS9"].working_shape_
    return Latency(conditions(fitted["ENS9"], shape, 1), {name: 1e3 * s for name, s in seconds.items()}, memory)


def compare_workers(method: str, options: dict[str, Any]) -> dict[int, float]:
    """Seconds of an ENS9 fit on noise by one and by two Ray workers of one thread each, on this machine's CPU.

    Raises:
        OptionError: Ray is not installed.
    """
    seconds, pictures = {}, noise_pictures(N_FOR_WORKERS, SIDE)
    shape = WorkingShape((SIDE, SIDE), (SIDE, SIDE))
    name, more = settings(method, options)["ENS9"]
    ensemble = create(name, device="cpu", **more, engine="ray").method
    for n in (1, 2):
        with Cluster(n_cpus=n):
            ensemble.learn(shape, pictures[: 2 * n], None)  # the workers start and load their libraries
            seconds[n] = timed(lambda: ensemble.learn(shape, pictures, None), ensemble.device)
    return seconds


def _memory(folder: str, device: str, side: int, tile: int) -> float:
    """Runs in a process of its own: MiB that scoring nine tiles adds, the model's own size left out."""
    detector = read_folder(Path(folder), DETECTORS, device=device)
    method = detector.method
    is_tiled = isinstance(method, TiledEnsemble)
    batch = torch.from_numpy(np.stack(noise_pictures(1, side) if is_tiled else noise_pictures(9, tile)))
    (method.member if is_tiled else method).encode(batch[:1, :tile, :tile])  # loads the network and its kernels
    before = PeakMemory(detector.device)
    with before:
        pass
    with PeakMemory(detector.device, 0.001) as peak:
        detector.score_batch(batch)
    return peak.mib - before.mib


def _fitted(request: Request, pictures: list[np.ndarray], device: str) -> Detector:
    method, options = request
    return create(method, device=device, **options).fit(pictures, n_folds=0)
