"""Memory is that of the device that computes: here a GPU whose figures are given."""

import numpy as np
import pytest
import torch

from admodels.runtime import engines, memory
from admodels.runtime.memory import PeakMemory, available_mib, free_bytes, keepable_bytes

CUDA, MPS = torch.device("cuda:1"), torch.device("mps")
MIB = 2**20


@pytest.fixture
def gpu(monkeypatch):
    """Two GPUs, the second with 1,000 MiB of 4,000 free; of the rest this process has 500, 200 of them unused."""
    asked = []

    def figure(value):
        def of(device=None):
            asked.append(str(device))
            return value

        return of

    monkeypatch.setattr(torch.cuda, "mem_get_info", figure((1000 * MIB, 4000 * MIB)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", figure(500 * MIB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", figure(300 * MIB))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", figure(None))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", figure(450 * MIB))
    yield asked
    assert set(asked) <= {"cuda:1"}  # each figure is that of the device that is used


def test_on_cuda_the_peak_is_that_of_its_tensors(gpu):
    with PeakMemory(CUDA) as peak:
        pass
    assert peak.mib == 450


def test_what_is_free_there_counts_what_the_allocator_keeps(gpu):
    assert free_bytes(CUDA) == 1200 * MIB
    assert available_mib(CUDA) == 1500


def test_on_mps_it_is_the_gpus_share(monkeypatch):
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 800 * MIB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 300 * MIB)
    assert available_mib(MPS) == 800
    assert free_bytes(MPS) == 500 * MIB
    with PeakMemory(MPS) as peak:
        pass
    assert peak.mib == 300


def test_on_a_cpu_it_is_the_processs():
    with PeakMemory() as peak:
        held = np.ones(30 * MIB, np.uint8)
    assert peak.mib > len(held) / MIB
    assert available_mib() > peak.mib


def test_a_training_keeps_as_much_as_half_of_what_is_free_on_a_gpu(monkeypatch):
    for free, on_cuda, on_mps in ((70, 35, 4), (6, 3, 3), (-1, 0, 0)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free * 2**30)
        assert [keepable_bytes(device) / 2**30 for device in (CUDA, MPS, memory.CPU)] == [on_cuda, on_mps, 4]


def test_a_gpu_takes_as_many_tiles_at_a_time_as_its_free_memory_holds(monkeypatch):
    tile = 256 * 256
    monkeypatch.setattr(engines, "free_bytes", lambda device: 2 * 2**30)
    at_once = engines.chunk_sizes(2048, tile, engines.most_pixels(CUDA))
    assert sum(at_once) == 2048
    assert max(at_once) * tile * engines.BYTES_PER_PIXEL <= 2**30
    monkeypatch.setattr(engines, "free_bytes", lambda device: 70 * 2**30)
    assert engines.chunk_sizes(64, tile, engines.most_pixels(CUDA)) == [64]
    monkeypatch.setattr(engines, "free_bytes", lambda device: 0)  # it is tried all the same
    assert engines.most_pixels(CUDA) == engines.CPU_CHUNK_PIXELS == engines.most_pixels(memory.CPU)


@pytest.mark.parametrize("device", [CUDA, MPS])
def test_rows_at_once_are_what_a_part_of_a_gpus_free_memory_holds(monkeypatch, device):
    def rows(n=10**9, row_bytes=1000, on_cpu=64, **most):
        return memory.rows_at_once(n, row_bytes, device, on_cpu, **most)

    monkeypatch.setattr(memory, "free_bytes", lambda asked: {device: 800 * MIB}[asked])
    assert rows() == 100 * MIB // 1000
    assert rows(row_bytes=10) == 100 * MIB // 10
    assert rows(most_bytes=MIB) == MIB // 1000
    monkeypatch.setattr(memory, "free_bytes", lambda asked: 80 * 2**30)
    assert rows() == memory.MAX_BLOCK_BYTES // 1000
    for n_free in (0, -MIB):  # MPS may use more than it recommends
        monkeypatch.setattr(memory, "free_bytes", lambda asked, n_free=n_free: n_free)
        assert rows() == 64


def test_no_device_is_asked_where_a_cpus_block_holds_all_rows(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", None)
    assert memory.rows_at_once(64, 1000, CUDA, 64) == 64
    assert memory.rows_at_once(10**9, 1000, memory.CPU, 64) == 64
