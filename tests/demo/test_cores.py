"""The CPU's cores are divided among what runs at the same time."""

import threading

import pytest
import torch

from admodels.runtime.device import usable_cores
from demo.state.cores import Cores


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


@pytest.mark.parametrize(("share", "expected"), [(1, 1), (3, 3), (8, 8), (64, 8)])
def test_a_container_computes_with_its_share(monkeypatch, share, expected):
    monkeypatch.setattr("joblib.cpu_count", lambda: share)
    torch.set_num_threads(8)
    assert usable_cores() == expected
