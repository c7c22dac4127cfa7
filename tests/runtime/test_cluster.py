"""Fits on a real Ray cluster of this machine's processes: two nodes of one CPU each."""

import json
import os
import signal
import threading
from contextlib import suppress

import psutil
import pytest
import torch

import admodels
from admodels.pictures.images import decode, resize
from admodels.pictures.working_shape import WorkingShape
from admodels.runtime.cluster import Cluster

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'ray>=2.50,<3'")

OPTIONS = {"image_size": 128, "tile_size": 64, "stride": 64, "method": "fapm", "member": {"grid": 3}}


@pytest.fixture(scope="module")
def cluster():
    """The first node has no CPU for tasks, so that it is safe to kill either of the others."""
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def pictures(normals):
    return [resize(decode(path).pixels, (128, 128), None) for path in normals]


@pytest.fixture
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def local(pictures):
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    found = admodels.create("tiled", device="cpu", **OPTIONS).fit(pictures, n_folds=0)
    torch.set_num_threads(n)
    return found


def same(a, b):
    assert a.state_.keys() == b.state_.keys()
    return all(torch.equal(a.state_[name], b.state_[name]) for name in a.state_)


def remote(**options):
    return admodels.create("tiled", device="cpu", engine="ray", **(OPTIONS | options))


def test_tiles_fitted_by_workers_are_those_fitted_here(cluster, one_thread, local, normals, pictures):
    seen = []
    ensemble = remote().fit(pictures, on_progress=seen.append)
    assert same(ensemble, local)
    assert ensemble.calibration_ == local.calibration_
    told = [p.done for p in seen if p.stage == "learning"]
    assert told == sorted(told)
    assert told[-1] == 19
    from_paths = remote(member={"grid": 3}).fit(normals)  # read by the workers
    assert from_paths.predict(normals[0]).score == pytest.approx(
        admodels.create("tiled", device="cpu", **OPTIONS).fit(normals, n_folds=0).predict(normals[0]).score, rel=1e-4
    )


def workers():
    """Processes that fit a tile now; Ray gives them the name of their task."""
    return [p for p in psutil.process_iter(["cmdline"]) if "ray::_learn_tile" in " ".join(p.info["cmdline"] or [])]


def test_a_killed_worker_costs_nothing_but_time(cluster, one_thread, local, pictures):
    killed = []

    def kill_one(progress):
        if progress.stage == "learning" and not killed and (found := workers()):
            with suppress(ProcessLookupError):  # it ended just now; the next one will do
                os.kill(found[0].pid, signal.SIGKILL)
                killed.append(found[0].pid)

    assert same(remote().fit(pictures, on_progress=kill_one), local)
    assert killed


def test_a_lost_node_costs_nothing_but_time(cluster, one_thread, local, pictures):
    lost = []

    def lose_a_node(progress):
        if progress.stage == "learning" and progress.done > 0 and not lost:
            lost.append(threading.Thread(target=cluster.remove_node, args=(node,), kwargs={"allow_graceful": False}))
            lost[0].start()

    node = cluster.worker_nodes.copy().pop()
    try:
        assert same(remote().fit(pictures, on_progress=lose_a_node), local)
        assert lost
    finally:
        if lost:
            lost[0].join()
            cluster.add_node(num_cpus=1)
            cluster.wait_for_nodes()


def stop(progress):
    if progress.stage == "learning":
        raise admodels.Cancelled("stopped")


def test_cancelling_ends_the_tasks(cluster, pictures):
    ensemble = remote()
    with pytest.raises(admodels.Cancelled):
        ensemble.fit(pictures, on_progress=stop)
    assert not ensemble.is_fitted


def test_what_is_wrong_in_a_task_is_said_here(cluster, pictures):
    with pytest.raises(admodels.ImageSetError, match="nowhere"):
        remote().method.learn(WorkingShape((128, 128), (128, 128)), ["nowhere.png"] * 4, None)
    diverging = {"method": "efficientad", "member": {"max_steps": 20, "learning_rate": 1.0}}
    with pytest.raises(admodels.TrainingError, match="diverged"):
        remote(**diverging).fit(pictures[:8])


def test_workers_share_the_cpus(cluster):
    for workers, n_threads, n_at_once in ((None, 1, 2), (1, 2, 1), (8, 1, 2)):
        with Cluster(workers) as found:
            assert (found.n_threads, found.n_at_once) == (n_threads, n_at_once)
    with pytest.raises(admodels.OptionError, match="single model"):
        remote(one_model=True)


def test_folds_are_refused_and_the_default_works(cluster, pictures):
    with pytest.raises(admodels.OptionError, match="Use n_folds=0"):
        remote().fit(pictures, n_folds=5)
    assert remote().fit(pictures[:8]).fit_report_.n_folds == 0


def test_categories_are_spread_over_workers(cluster, small_data, tmp_path):
    from admodels.evaluation.datasets import find_datasets
    from admodels.evaluation.sweep import sweep

    def new():
        return admodels.create("padim_isvd", device="cpu", image_size=64, n_components=4)

    told, datasets = [], {name: next(iter(find_datasets(small_data).values())) for name in ("a", "b")}
    asked = {"robustness": False, "on_category": lambda name, *_: told.append(name)}
    here = sweep(new, datasets, tmp_path / "here", **asked)
    there = sweep(new, datasets, tmp_path / "there", on_ray=True, **asked)
    assert sorted(told) == ["a", "a", "b", "b"]
    for name in datasets:
        assert there[name]["image_auroc"] == pytest.approx(here[name]["image_auroc"])
        assert (tmp_path / "there" / f"{name}.json").is_file()
    again = sweep(new, datasets, tmp_path / "there", on_ray=True, **asked)
    assert again == json.loads(json.dumps(there)), "what the files hold was measured again"


def test_without_ray_the_install_line_is_said(monkeypatch, pictures):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(admodels.OptionError, match="pip install 'ray"):
        remote().fit(pictures)


def test_where_there_is_no_cluster_one_is_started_and_stopped(cluster, pictures, monkeypatch):
    from admodels.cli import tiled_benchmark

    ray.shutdown()
    for name, value in (("SIDE", 128), ("TILE", 64), ("N_FOR_WORKERS", 8)):
        monkeypatch.setattr(tiled_benchmark, name, value)
    seconds = tiled_benchmark.compare_workers("padim_isvd", {"n_components": 4})
    assert list(seconds) == [1, 2]
    assert min(seconds.values()) > 0
    assert not ray.is_initialized()
    with pytest.raises(admodels.Cancelled):
        remote().fit(pictures, on_progress=stop)
    assert not ray.is_initialized()
    assert psutil.wait_procs(workers(), timeout=30)[1] == [], "tasks go on"
