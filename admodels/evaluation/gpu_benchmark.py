"""What a machine's GPU makes of everything that computes here: `python -m admodels benchmark gpu`.

The pictures are noise, and networks whose weights are not on the machine have random ones: neither changes a speed.
Each part is written as soon as it is measured and is not measured again, so a run that was cut off goes on. A part that
fails is kept as its error, and the others are measured. On a CPU the same parts run, each smaller.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from admodels.core.detector import Detector
from admodels.core.method import Method
from admodels.errors import StoreError
from admodels.evaluation.timing import conditions, measure_speed, median_seconds, noise_pictures
from admodels.files import write_text
from admodels.options import make_options
from admodels.pictures.images import inspect_set
from admodels.runtime.backbone_specs import backbone_spec
from admodels.runtime.device import computing_in, describe_device, resolve_device, resolve_precision, timed
from admodels.runtime.engines import TorchEngine
from admodels.runtime.memory import PeakMemory, available_mib
from admodels.runtime.networks import build_network
from admodels.runtime.normalising import Normalisation

SIDE = 256
PACKAGES = ("torchvision", "timm", "numpy", "openvino")
# What papers report, and on which GPU.
PUBLISHED = {
    "efficientad small": "about 2 ms, and 600 pictures a second (RTX A6000; Batzner et al., abstract)",
    "fapm": "44.1 FPS, PatchCore-10 % 23.4 (Titan RTX; Kim et al., table 1)",
    "padim_isvd": "fit 192.8 FPS, one-shot PCA 10.1 (RTX 6000; Lee et al., table 2)",
}
N_REPEATS = 20

Measured = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        n_pictures: that methods are fitted on.
        batches: sizes of batches.
        n_repeats: of each figure; the median is given.
    """

    n_pictures: int
    batches: tuple[int, ...]
    backbones: tuple[str, ...]
    n_repeats: int

    @classmethod
    def for_device(cls, device: torch.device) -> "Size":
        """A GPU takes hundreds of pictures a second, a CPU tens."""
        if device.type == "cpu":
            return cls(16, (1,), ("efficientnet_lite0",), 3)
        return cls(512, (1, 8, 32), ("efficientnet_lite0", "resnet18", "wide_resnet50_2"), N_REPEATS)


class GpuBenchmark:
    """All parts, and the file that they are kept in.

    Args:
        methods: by name, as the registry has them.
        file: where figures are kept; those that it has already are not measured again.

    Raises:
        StoreError: the file holds something else, or figures of another device.
    """

    def __init__(
        self, methods: Mapping[str, type[Method]], file: Path, *, device: str = "auto", size: Size | None = None
    ) -> None:
        self._methods, self._file = methods, file
        self.device = resolve_device(device)
        self._size = size or Size.for_device(self.device)
        self.found = self._kept()

    def parts(self) -> dict[str, Callable[[], Any]]:
        """Name to what measures it, in the order in which they are worth their time."""
        parts: dict[str, Callable[[], Any]] = {"environment": self._environment}
        parts |= {f"backbone {name}": lambda name=name: self._backbone(name) for name in self._size.backbones}
        for name, (key, options) in self._asked().items():
            parts[f"method {name}"] = lambda key=key, options=options: self._method(key, options)
        for size in ("small",) if self.device.type == "cpu" else ("small", "medium"):
            parts[f"training efficientad {size}"] = lambda size=size: self._training(size)
        return parts

    def run(self, seconds: float) -> Iterator[tuple[str, Any]]:
        """Measure what is not there yet, and give each part; no part is begun after so many seconds."""
        started = time.monotonic()
        for name, measured in self.parts().items():
            if name in self.found and "error" not in self.found[name]:
                continue
            if time.monotonic() - started > seconds:
                return
            try:
                self.found[name] = measured()
            except Exception as error:  # the others are worth having all the same
                self.found[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
            write_text(self._file, json.dumps(self.found, indent=2) + "\n")
            yield name, self.found[name]

    @property
    def missing(self) -> list[str]:
        """Parts that were not measured, for want of time or because they failed."""
        return [name for name in self.parts() if "error" in self.found.get(name, {"error": ""})]

    def _kept(self) -> dict[str, Any]:
        if not self._file.is_file():
            return {}
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            on = found["environment"]["device"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self._file} holds no figures of this benchmark. Choose another file.") from error
        if on != describe_device(self.device):
            raise StoreError(
                f"{self._file} holds figures of {on}, not of {describe_device(self.device)}. Choose another."
            )
        return found

    def _environment(self) -> Measured:
        versions: dict[str, str | None] = {"torch": torch.__version__}  # with the build, which decides the speed
        for name in PACKAGES:
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                versions[name] = None
        found = {
            "device": describe_device(self.device),
            "precision": str(resolve_precision("auto", self.device)).removeprefix("torch."),
            "available_mib": round(available_mib(self.device)),
            "cores": os.cpu_count(),
            "versions": versions,
            "host_settings": {
                "matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
                "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
                "cudnn.benchmark": torch.backends.cudnn.benchmark,
            },
            "published": PUBLISHED,
        }
        if self.device.type == "cuda":
            found |= {"cuda": torch.version.cuda, "capability": torch.cuda.get_device_capability(self.device)}
        return found

    def _backbone(self, name: str) -> Measured:
        """Pictures a second by variant and batch, each from normalised pictures on the device to maps there."""
        dtype, rows = resolve_precision("auto", self.device), {}
        network = build_network(name, pretrained=False).to(self.device)
        plain = build_network(name, pretrained=False, folded=False).to(self.device)
        for n in self._size.batches:
            x = torch.randn(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(self.device)
            row = rows[f"batch {n}"] = {}
            for variant, run in self._variants(name, network, plain, x, dtype).items():
                try:
                    seconds = median_seconds({variant: run()}, self.device, self._size.n_repeats)
                    row[variant] = round(n / seconds[variant], 1)
                except Exception as error:  # a compiler that is not there, for example
                    row[variant] = f"{type(error).__name__}: {error}"[:200]
        return {"precision": str(dtype).removeprefix("torch."), "pictures_per_second": rows}

    def _variants(
        self, name: str, network: nn.Module, plain: nn.Module, x: Tensor, dtype: torch.dtype
    ) -> dict[str, Callable[[], Callable[[], object]]]:
        """Each makes what is timed; making it is not."""
        spec, last = backbone_spec(name), x.contiguous(memory_format=torch.channels_last)
        pictures = torch.randint(0, 256, (len(x), SIDE, SIDE, 3), dtype=torch.uint8)

        def compiled() -> Callable[[], object]:
            made = torch.compile(network.to(memory_format=torch.channels_last))
            return lambda: self._pass(made, last, dtype)

        def graph() -> Callable[[], object]:
            return self._graph(network.to(memory_format=torch.channels_last), last, dtype)

        def ours() -> Callable[[], object]:
            made = build_network(name, pretrained=False)
            engine = TorchEngine(made, Normalisation(spec.mean, spec.std), self.device, dtype)
            return lambda: engine(pictures)

        found = {
            "eager, float32": lambda: lambda: self._pass(plain, x, torch.float32),
            "channels_last, float32": lambda: (
                lambda: self._pass(network.to(memory_format=torch.channels_last), last, torch.float32)
            ),
            "channels_last, by autocast": lambda: lambda: self._pass(network, last, dtype),
            "as used here, from uint8 on the host": ours,
        }
        if self.device.type == "cuda":
            found |= {"torch.compile": compiled, "CUDA graph": graph}
        return found

    def _pass(self, network: nn.Module, x: Tensor, dtype: torch.dtype) -> list[Tensor]:
        with torch.inference_mode(), computing_in(dtype, self.device):
            return network(x)

    def _graph(self, network: nn.Module, x: Tensor, dtype: torch.dtype) -> Callable[[], object]:
        """The pass of this very batch, recorded once and played again."""
        side_stream = torch.cuda.Stream(self.device)
        side_stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side_stream):
            for _ in range(3):  # kernels are chosen before the recording
                self._pass(network, x, dtype)
        torch.cuda.current_stream(self.device).wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = self._pass(network, x, dtype)  # its memory belongs to the graph
        return lambda: (graph.replay(), kept)

    def _asked(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """What methods are measured with: name to method and options."""
        solvers = self._methods["padim_isvd"].comparison
        steps = {"max_steps": 50 if self.device.type != "cpu" else 2}
        asked = {
            "fapm": ("fapm", {}),
            "patchcore 10 %": ("patchcore", {"coreset_ratio": 0.1}),
            "padim": ("padim", {}),
            **{f"padim_isvd {name}": ("padim_isvd", chosen) for name, chosen in solvers.items()},
            "efficientad small": ("efficientad", steps),
            "fastflow": ("fastflow", steps),
            "reverse_distillation": ("reverse_distillation", steps),
        }
        member = {"method": "fapm", "image_size": 512, "tile_size": 256}
        if self.device.type != "cpu":
            asked |= {
                "efficientad medium": ("efficientad", steps | {"size": "medium"}),
                "fapm SM512": ("fapm", {"image_size": 512}),
                "fapm ENS4": ("tiled", member | {"stride": 256}),
                "fapm ENS9": ("tiled", member | {"stride": 128}),
            }
        return asked

    def _method(self, key: str, options: dict[str, Any]) -> Measured:
        """A fit from pictures in memory, and predictions at each batch size by both protocols."""
        cls, side, n_pictures = self._methods[key], options.get("image_size", SIDE), self._size.n_pictures
        pictures = noise_pictures(n_pictures if side <= SIDE else max(n_pictures // 4, 8), side)
        detector = Detector(cls(make_options(cls.Config, options), device=self.device))
        detector.fit(pictures[:8])  # loads the network and its kernels
        seconds = timed(lambda: detector.fit(pictures, n_folds=0), self.device)
        found: Measured = {
            "conditions": conditions(detector, detector.working_shape_, 1),
            "fit_seconds": round(seconds, 3),
            "fit_pictures_per_second": round(len(pictures) / seconds, 1),
            "fit_peak_mib": round(detector.fit_report_.peak_memory_mib),
            "predict": {},
        }
        for n in self._size.batches:
            with PeakMemory(self.device) as peak:
                speed = measure_speed(detector, [pictures[i % len(pictures)] for i in range(n)])
            found["predict"][f"batch {n}"] = {
                "network": _milliseconds(asdict(speed.network)) | {"per_second": round(speed.fps(speed.network), 1)},
                "end_to_end": _milliseconds(asdict(speed.end_to_end))
                | {"per_second": round(speed.fps(speed.end_to_end), 1)},
                "stages": {stage: _milliseconds(asdict(q)) for stage, q in speed.stages.items()},
                "peak_mib": round(peak.mib),
            }
        return found

    def _training(self, size: str) -> Measured:
        """Steps a second of the paper's training, and the hours that its 70,000 take."""
        cls = self._methods["efficientad"]
        method = cls(make_options(cls.Config, {"size": size}), device=self.device)
        shape = Detector(method).shape_for(inspect_set(noise_pictures(4, SIDE)))
        seconds = method.budget(shape).step_seconds(long=True)
        return {"steps_per_second": round(1 / seconds, 2), "hours_for_70000": round(70_000 * seconds / 3600, 2)}


def _milliseconds(quantiles: dict[str, float]) -> dict[str, float]:
    return {f"{name}_ms": round(1000 * value, 3) for name, value in quantiles.items()}
