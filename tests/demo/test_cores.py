"""The CPU's cores are divided among what runs at the same time."""

import threading

import pytest
import torch

from admodels.runtime.device import usable_cores
from demo.state.cores import Cores


@pytest.fixture(autouse=True)
def own_threads():
    n = torch.get_num_threads()
    yield
    torch.set_num_threads(n)


def enter(how, entered, leave):
    """Hold a part of the cores in a thread of its own until told to leave; what it computes with goes to `entered`."""

    def hold():
        with how():
            entered.append(torch.get_num_threads())
            there.set()
            leave.wait(30)

    there, thread = threading.Event(), threading.Thread(target=hold)
    thread.start()
    assert there.wait(30)
    return thread


def test_each_takes_its_part_and_a_long_one_takes_all():
    cores, entered, leave = Cores(4), [], threading.Event()
    threads = [
        enter(how, entered, leave) for how in (cores.shared, cores.shared, cores.shared, cores.all, cores.shared)
    ]
    assert entered == [4, 2, 1, 4, 1]
    leave.set()
    for thread in threads:
        thread.join()
    with cores.shared():
        assert torch.get_num_threads() == 4


def test_an_error_gives_the_cores_back():
    cores = Cores(4)
    with pytest.raises(ValueError, match="in the middle"), cores.all():
        raise ValueError("in the middle")
    with cores.shared():
        assert torch.get_num_threads() == 4


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_a_container_computes_with_its_share(tmp_path, files, expected):
    torch.set_num_threads(8)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert usable_cores(tmp_path) == expected
