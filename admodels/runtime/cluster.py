"""Work as tasks of a Ray cluster: one that runs already (`RAY_ADDRESS`, or the program's own `ray.init`), or one here.

Ray is optional and imported only where it is asked for.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from admodels.errors import AdmodelsError, OptionError

WAIT_SECONDS = 0.2  # between two looks at the tasks: how soon a cancellation is felt
GRACE_SECONDS = 5.0  # for other tasks, once one has failed
MAX_RETRIES = 4  # of a task whose worker or machine died


class Cluster:
    """Context manager; a cluster that was started here is stopped at its end.

    Args:
        workers: tasks at a time; by default one for each CPU of the cluster, with one thread. Fewer share the CPUs.
        use_gpu: each task needs a GPU of its own.
        n_cpus: start a new cluster here with so many CPUs.

    Raises:
        OptionError: Ray is not installed.
    """

    def __init__(self, workers: int | None = None, *, use_gpu: bool = False, n_cpus: int | None = None) -> None:
        self._ray = _import_ray()
        self._workers, self._use_gpu, self._n_cpus = workers, use_gpu, n_cpus
        self._started_here = False

    def __enter__(self) -> Self:
        if not self._ray.is_initialized():
            self._started_here = self._n_cpus is not None or not os.environ.get("RAY_ADDRESS")
            here = {"address": "local", "include_dashboard": False, "num_cpus": self._n_cpus}
            more = here if self._started_here else {}
            self._ray.init(log_to_driver=False, **more)
        there = self._ray.cluster_resources()
        n_cpus = max(1, int(there.get("CPU", 1)))
        self._at_once = self._workers or n_cpus
        self.n_threads = max(1, n_cpus // self._at_once)
        # More than these wait for a CPU or a GPU.
        self.n_at_once = min(self._at_once, n_cpus, max(1, int(there.get("GPU", 1))) if self._use_gpu else n_cpus)
        return self

    def __exit__(self, *_: object) -> None:
        if self._started_here:
            self._ray.shutdown()

    def put(self, value: Any) -> Any:
        """Into the cluster's memory, once; tasks are given the reference, inside a list, and `fetch` it."""
        return self._ray.put(value)

    def run(
        self,
        function: Callable[..., Any],
        arguments: Sequence[tuple],
        on_wait: Callable[[int], None] | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Call `function(*arguments[i])` for all i; yields (i, result) as they come.

        A task whose worker or machine dies is done again elsewhere.

        Args:
            function: of a module, since a worker imports it by name.
            on_wait: told how many are done, several times a second; what it raises cancels all tasks.

        Raises:
            AdmodelsError: what a task raised, or a worker that died again and again.
        """
        task, errors = self._task(function), self._ray.exceptions
        waiting, pending, n_done, grace = list(range(len(arguments)))[::-1], {}, 0, 0.0
        n_lost = [0] * len(arguments)
        try:
            while waiting or pending:
                while waiting and len(pending) < self._at_once:
                    i = waiting.pop()
                    pending[task.remote(*arguments[i])] = i
                for reference in self._ray.wait(list(pending), timeout=WAIT_SECONDS)[0]:
                    i, grace = pending.pop(reference), GRACE_SECONDS
                    try:
                        result = fetch(reference)
                    except errors.RayTaskError:
                        raise
                    except errors.RayError as error:
                        n_lost[i] += 1
                        if n_lost[i] > MAX_RETRIES:
                            raise _lost(error) from error
                        waiting.append(i)
                        grace = 0.0
                    else:
                        n_done, grace = n_done + 1, 0.0
                        yield i, result
                if on_wait is not None:
                    on_wait(n_done)
        finally:
            # Ray itself fails (2.60), and this process with it, where a task is cancelled by force or at the moment of
            # its end. A cluster that was started here is stopped instead; elsewhere, as what makes one task fail often
            # ends the others too, they are given time for it.
            if pending and not self._started_here:
                for reference in self._ray.wait(list(pending), num_returns=len(pending), timeout=grace)[1]:
                    self._ray.cancel(reference)

    def _task(self, function: Callable[..., Any]) -> Any:
        # A worker finds this package where it is here; on another machine it has to be installed.
        path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
        return self._ray.remote(function).options(
            num_cpus=self.n_threads,
            num_gpus=int(self._use_gpu),
            max_retries=0,  # Ray (2.60) also makes lost results again, and sometimes waits for them forever
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )


def fetch(reference: Any) -> Any:
    """The value behind a reference; arrays are not copied, and cannot be written to.

    Raises:
        AdmodelsError: the task that was to make it raised this.
    """
    ray = _import_ray()
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AdmodelsError):
            raise error.cause from None
        raise


def _lost(error: Exception) -> AdmodelsError:
    return AdmodelsError(
        f"a worker of the Ray cluster was lost {MAX_RETRIES + 1} times ({type(error).__name__}), most likely because "
        "it ran out of memory. Use fewer workers or smaller tiles."
    )


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise OptionError(
            "engine=ray needs the package ray, which is not installed. Install it with: pip install 'ray>=2.50,<3'"
        ) from error
    return ray
