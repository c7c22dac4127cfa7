"""A training step of ours against the textbook's: the frozen network in every step, by PyTorch, nothing kept.

    python -m tests.methods.measure_training [--side 256] [--rounds 5]

Both take float32 and the same pictures; the two are asked in turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import admodels
from admodels.evaluation.timing import conditions
from admodels.methods.trained import TrainedMethod, do_step, moments
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.backbone_specs import backbone_spec
from admodels.runtime.networks import build_network
from admodels.runtime.normalising import Normalisation


def main() -> None:
    """Print a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    shape = WorkingShape((asked.side,) * 2, (asked.side,) * 2)
    for key in ("fastflow", "reverse_distillation"):
        detector = admodels.create(key, device="cpu", precision="float32")
        steps = forms(detector.method, shape)
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(asked.rounds):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - started)
        ours, textbook = (statistics.median(seconds[name]) for name in ("ours", "textbook"))
        n = detector.config.batch_size
        print(
            f"{key}, batch {n}: {ours:.2f} s a step, textbook {textbook:.2f} s, {textbook / ours:.2f} times; "
            f"{conditions(detector, shape, n)}"
        )


def forms(method: TrainedMethod, shape: WorkingShape) -> dict[str, Callable[[], Tensor]]:
    """A step of each kind, on pictures of noise."""
    n, (height, width) = method.config.batch_size, shape.cropped
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=generator)
    spec = backbone_spec(method.config.backbone)
    frozen = build_network(method.config.backbone).eval().requires_grad_(False)
    normalise = Normalisation(spec.mean, spec.std)
    with torch.inference_mode():
        encoded = method.used(method.encode(pictures))
    kept = [m.half().clone(memory_format=torch.channels_last) for m in encoded]
    made = {}
    for name in ("ours", "textbook"):
        network = method._new_network(shape)
        if name == "textbook":
            network = network.to(memory_format=torch.contiguous_format)
        with torch.no_grad():
            network.look_at([moments(m) for m in kept])
        made[name] = network.train(), method.optimizer(network)

    def textbook() -> Tensor:
        with torch.no_grad():
            maps = method.used([m.contiguous() for m in frozen(normalise(pictures).contiguous())])
        return do_step(method, *made["textbook"], maps)

    return {"ours": lambda: do_step(method, *made["ours"], [m.float() for m in kept]), "textbook": textbook}


if __name__ == "__main__":
    main()
