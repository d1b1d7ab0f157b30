"""What is measured of memory, what a limit refuses, and what is read from messages."""

import sys
import time

import numpy as np
import pytest
import torch

from bench.contract import RequestError
from bench.core.memory import (
    AllocationFailure,
    OverLimit,
    PeakMemory,
    available,
    check_limit,
    failing_line,
    format_bytes,
    is_out_of_memory,
    memory_limit,
    resident,
    tried_bytes,
)

CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="nothing refuses memory on this system")


def test_peak_is_what_was_in_use_between():
    with PeakMemory(CPU) as peak:
        gone = torch.ones(2**25)  # 128 MiB
        time.sleep(0.05)
        del gone
    assert 2**26 < peak.growth < 2**29
    assert peak.most == peak.before + peak.growth
    with pytest.raises(OverLimit, match="are allowed"):
        peak.check(peak.before)
    peak.check(peak.most)
    peak.check(None)


def refused(size):
    with pytest.raises(RuntimeError) as caught, memory_limit(CPU, resident() + 2**27):
        torch.ones(size // 4)
    return caught.value


@linux
def test_large_tensor_is_refused_before_it_is_made():
    with PeakMemory(CPU) as peak:
        error = refused(2**33)
    assert is_out_of_memory(error)
    assert tried_bytes(error) == 2**33
    assert failing_line(error).endswith("torch.ones(size // 4)")
    assert peak.growth < 2**28
    # Afterwards memory is to be had again.
    assert float(torch.ones(2**27).sum()) == 2**27


@linux
def test_what_fits_is_not_refused():
    with memory_limit(CPU, resident() + 2**28):
        assert float(torch.ones(2**24).sum()) == 2**24  # 64 MiB
    with memory_limit(CPU, None):
        assert float(torch.ones(2**24).sum()) == 2**24


def test_limit_below_the_processs_own_memory_is_refused():
    with pytest.raises(RequestError, match=r"--memory-limit 1.0 MiB: the process takes .* write more"):
        check_limit(CPU, 2**20)
    check_limit(CPU, None)


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 15.26 GiB. GPU 0 has a total of"), 16385300234),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 512.00 MiB."), 2**29),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 96 bytes. Error"), 96),
        (RuntimeError("could not create a primitive"), None),
        (RuntimeError("std::bad_alloc"), None),
        (MemoryError(), None),
    ],
)
def test_messages_of_failed_allocations(error, size):
    assert is_out_of_memory(error)
    assert tried_bytes(error) == size


def test_numpys_message():
    with pytest.raises(MemoryError) as caught:
        np.ones(2**42)
    assert is_out_of_memory(caught.value)
    assert tried_bytes(caught.value) == 2**45


def test_a_convolution_without_room_for_any_engine_is_out_of_memory():
    assert is_out_of_memory(RuntimeError("GET was unable to find an engine to execute this computation"))
    assert is_out_of_memory(RuntimeError("FIND was unable to find an engine to execute this computation"))


def test_other_errors_are_something_else():
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a convolution"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_an_overrun_says_all_that_is_known():
    whole = AllocationFailure("fit", 32, 3 * 2**30, 2**30, 4 * 2**30, "baselines/x.py:3 a @ b")
    expected = "fit at batch size 32: tried to allocate 3.0 GiB, peak 1.0 GiB, limit 4.0 GiB (baselines/x.py:3 a @ b)"
    assert str(whole) == expected
    assert str(AllocationFailure("fit", None, None, 2**30, None, "")) == "fit: peak 1.0 GiB"
    found = AllocationFailure.of(OverLimit("2 MiB were in use"), "evaluation", 1, 5, 4)
    assert (found.tried_bytes, found.place) == (None, "")


def test_sizes_for_people():
    assert [format_bytes(2**n) for n in (10, 25, 30, 41)] == ["1.0 KiB", "32.0 MiB", "1.0 GiB", "2.0 TiB"]


def test_there_is_memory_left():
    assert 2**20 < available(CPU) < 2**50
