"""What runs the network against what else could: feature pass, prediction and fit, alone and beside other work.

    python -m tests.runtime.measure_engines GOOD_PICTURES [--method fapm] [--against CHECKOUT] [--rounds 15]

Each engine has a process of its own; with `--against` there is one more, with the code of another checkout. They are
asked in turn, so that a slow moment of the machine touches all alike. Beside other work means beside as many threads as
`--busy` says, which count as fast as they can. Seconds to start are from an empty process to the first prediction,
with the model saved and the network converted before; memory is what the process holds then.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
ROWS = {
    "features, 1": "feature pass, batch 1",
    "features, 8": "feature pass, batch 8, per picture",
    "predict": "predict, from the file's bytes to the map",
    "predict, 8": "predict_batch of 8, per picture",
    "fit": "fit, per picture",
}


def main() -> None:
    """Print a table for each state of the machine."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("good", type=Path)
    parser.add_argument("--method", default="fapm")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--busy", type=int, default=4)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    variants = {"torch": (ROOT, "torch"), "openvino": (ROOT, "openvino")}
    if asked.against:
        variants = {"before": (asked.against.resolve(), "torch"), **variants}
    console, found = Console(width=130), {}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(*variant, asked)) for name, variant in variants.items()}
        said = {name: worker.ask("ready") for name, worker in workers.items()}
        for n_busy in (0, asked.busy):
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_busy)]
            try:
                found[n_busy] = _measured(workers, asked.rounds)
            finally:
                for other in others:
                    other.kill()
            title = f"{asked.method}, milliseconds, median of {asked.rounds}, " + (
                f"beside {n_busy}" if n_busy else "alone"
            )
            console.print(_table(title, found[n_busy], list(workers)))
    for name, what in said.items():
        console.print(f"{name}: {what['conditions']}; {what['start']:.1f} s to start, {what['mib']:.0f} MiB")
    if asked.json:
        asked.json.write_text(json.dumps({"said": said, "milliseconds": found}, indent=1), encoding="utf-8")


def _measured(workers: dict[str, "Worker"], n_rounds: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, list[float]]] = {row: {name: [] for name in workers} for row in ROWS}
    for row in ROWS:
        for i in range(max(3, n_rounds // 5) if row == "fit" else n_rounds):
            order = list(workers.items())
            for name, worker in order[i % len(order) :] + order[: i % len(order)]:
                found[row][name].append(worker.ask(row))
    return {row: {name: 1e3 * statistics.median(s) for name, s in by.items()} for row, by in found.items()}


def _table(title: str, found: dict[str, dict[str, float]], names: list[str]) -> Table:
    first, *others = names
    table = Table("", *names, *(f"{first} / {other}" for other in others), title=title)
    for row, by in found.items():
        ratios = (f"{by[first] / by[other]:.2f}" for other in others)
        table.add_row(ROWS[row], *(f"{by[name]:.2f}" for name in names), *ratios)
    return table


class Worker:
    """A process with one engine; it answers with seconds."""

    def __init__(self, root: Path, engine: str, asked: argparse.Namespace) -> None:
        environment = os.environ | {"ADMODELS_ENGINE": engine, "PYTHONPATH": str(root)}
        command = [sys.executable, __file__, "--worker", str(asked.good.resolve()), asked.method, asked.precision]
        self._process = subprocess.Popen(
            command, env=environment, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, what: str) -> float | dict:
        """The answer to one of `ROWS`, or to "ready"."""
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def work(good: Path, method: str, precision: str) -> None:
    """The other side: answers line by line."""
    started = time.perf_counter()
    answers, output = sys.stdout, io.StringIO()
    sys.stdout = output  # of whatever else prints
    import numpy as np
    import psutil
    import torch

    import admodels
    from admodels.evaluation.timing import conditions
    from admodels.runtime.memory import keep_freed_memory

    keep_freed_memory()
    paths = sorted(good.iterdir())
    name = f"measure-engines-{os.getpid()}"
    detector = admodels.create(method, device="cpu", precision=precision).fit(paths)
    admodels.save(detector, name, overwrite=True)
    try:
        start = _seconds_to_start(name, paths[0])
    finally:
        admodels.LOCAL.delete(name)
    shape = detector.working_shape_
    prepared = [torch.from_numpy(np.stack([shape.prepare(detector.read(p).pixels) for p in paths[:n]])) for n in (1, 8)]
    data = [path.read_bytes() for path in paths[:8]]
    backbone = detector.method.backbone
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "features, 1": (lambda: backbone.features(prepared[0]), 1),
        "features, 8": (lambda: backbone.features(prepared[1]), 8),
        "predict": (lambda: detector.predict(data[0]), 1),
        "predict, 8": (lambda: detector.predict_batch(data), 8),
        "fit": (lambda: admodels.create(method, device="cpu", precision=precision).fit(paths), len(paths)),
    }
    for line in sys.stdin:
        asked = line.strip()
        if asked == "ready":
            ready = {
                "conditions": conditions(detector, shape, 1),
                "start": start,
                "mib": psutil.Process().memory_info().rss / 2**20,
            }
            answer: object = ready
        else:
            run, n = runs[asked]
            if asked != "fit":
                run()  # the last one asked was another process
            started = time.perf_counter()
            run()
            answer = (time.perf_counter() - started) / n
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _seconds_to_start(name: str, picture: Path) -> float:
    code = f"import admodels; admodels.load({name!r}, device='cpu').predict({str(picture)!r})"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(Path(sys.argv[2]), *sys.argv[3:5])
    else:
        main()
