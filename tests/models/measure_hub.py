"""How long a push and a pull of a model of 20 MB take, beside copying as many bytes over the same loopback connection.

python -m tests.models.measure_hub
"""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx
from huggingface_hub.utils import disable_progress_bars
from rich.console import Console

import admodels
from admodels.evaluation.datasets import normal_images
from admodels.models import Source, parse_reference
from admodels.models.publishing import write_model
from tests import HUB

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pa_brg02_rl"
N_ROUNDS = 7


def main() -> None:
    """Measure, print."""
    disable_progress_bars()
    os.environ["HF_TOKEN"] = "hf_owner"
    detector = admodels.create("padim_isvd", n_components=6, device="cpu").fit(normal_images(EXAMPLE))
    content = os.urandom(round(detector.model_mib * 2**20))
    seconds: dict[str, list[float]] = {}

    def timed(what, function, *given, **more) -> None:
        started = time.perf_counter()
        function(*given, **more)
        seconds.setdefault(what, []).append(time.perf_counter() - started)

    for i in range(N_ROUNDS):
        address = f"{HUB.storage}/{HUB.put(content)}"
        with httpx.Client() as client:
            timed("copy there", client.put, address, content=content)
            timed("copy back", client.get, address)
        # Another model each time: what is there already would not be sent again.
        key = next(iter(detector.state_))
        detector.state_[key] = detector.state_[key] + 1e-6 * i
        name = f"owner/model-{i}"
        timed("push", admodels.push, detector, name)
        with tempfile.TemporaryDirectory() as folder:
            timed("of it making the files", write_model, detector, Path(folder), Source(), name)
        timed("pull", admodels.pull, name, device="cpu")
        folder, pinned = admodels.HUB.download(parse_reference(name))
        timed("of it reading and verifying", admodels.HUB.open_folder, folder, pinned, device="cpu")
        timed("pull again", admodels.pull, name, device="cpu")
    console = Console()
    console.print(f"{len(content) / 1e6:.1f} MB, median of {N_ROUNDS}")
    for name, values in seconds.items():
        console.print(f"{name}: {1e3 * median(values):.0f} ms")


if __name__ == "__main__":
    main()
