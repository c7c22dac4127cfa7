"""Products keep their digits whatever the host program has set, and its settings are as they were afterwards."""

import os
import threading

import pytest
import torch

from admodels.runtime.exact import exact_products

CUDA = torch.device("cuda")  # that there is none makes no difference: the settings are PyTorch's


def settings():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(params=[(True, True), (False, True), (False, False)])
def hosts(request):
    before = settings()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_within_it_nothing_is_rounded_to_tf32_and_afterwards_all_is_as_it_was(hosts):
    with exact_products(CUDA):
        assert settings() == (False, False)
        with exact_products(CUDA):
            assert settings() == (False, False)
        assert settings() == (False, False)
    assert settings() == hosts
    with pytest.raises(ValueError, match="inside"), exact_products(CUDA):
        raise ValueError("inside")
    assert settings() == hosts


def precisions():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision


def for_all(precision):
    torch.backends.fp32_precision = precision


def for_products(precision):
    torch.backends.cuda.matmul.fp32_precision = precision


def for_convolutions(precision):
    torch.backends.cudnn.conv.fp32_precision = precision


@pytest.mark.parametrize("allow", [for_all, for_products, for_convolutions])
@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_a_host_may_use_pytorchs_newer_settings(allow, precision):
    """Of which the older ones cannot be read any more; what holds for all must not shine through."""
    try:
        allow(precision)
        hosts = precisions()
        assert precision in hosts
        with exact_products(CUDA):
            assert precisions() == ("ieee", "ieee", "ieee")
            assert settings() == (False, False)
        assert precisions() == hosts
    finally:
        for_all("none")
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
        for_products("none")


def test_threads_that_overlap_end_with_the_hosts_settings(hosts):
    first_is_in, second_is_in = threading.Event(), threading.Event()
    seen = []

    def first():
        with exact_products(CUDA):
            first_is_in.set()
            assert second_is_in.wait(60)
        seen.append(settings())  # the second one is still within

    def second():
        assert first_is_in.wait(60)
        with exact_products(CUDA):
            second_is_in.set()
            one.join()
            seen.append(settings())

    one, other = threading.Thread(target=first), threading.Thread(target=second)
    one.start(), other.start()
    one.join(), other.join()
    assert seen == [(False, False)] * 2
    assert settings() == hosts


def test_on_a_cpu_nothing_is_touched(hosts):
    with exact_products(torch.device("cpu")):
        assert settings() == hosts


@pytest.mark.parametrize("host", [(False, False), (True, False), (True, True)], ids=["none", "strict", "warns"])
def test_kernels_that_give_the_same_in_every_run_are_asked_for_by_name(host, monkeypatch):
    def asked():
        enabled = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
        return *enabled, torch.backends.cudnn.deterministic

    before = asked()
    torch.use_deterministic_algorithms(host[0], warn_only=host[1])
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        for setting, expected in (("", host[0]), ("0", host[0]), ("1", True)):
            monkeypatch.setenv("ADMODELS_DETERMINISTIC", setting)
            with exact_products(CUDA):
                assert asked()[0] == expected
                assert asked()[2] == (setting == "1" or before[2])
                assert asked()[1] == (host[1] if host[0] else True) or not expected
            assert asked() == (*host, before[2])
            assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == (setting == "1")
        with exact_products(torch.device("cpu")):
            assert asked() == (*host, before[2])
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
