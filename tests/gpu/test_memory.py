"""A memory limit on a CUDA device: kept by the allocator, named in its message, lifted afterwards."""

import pytest
import torch

from bench.core.memory import PeakMemory, is_out_of_memory, memory_limit, tried_bytes

pytestmark = pytest.mark.gpu


def test_a_tensor_beyond_the_limit_is_refused():
    device = torch.device("cuda:0")
    with pytest.raises(torch.OutOfMemoryError) as caught, memory_limit(device, 2**26):
        torch.ones(2**26, device=device)
    assert is_out_of_memory(caught.value)
    assert tried_bytes(caught.value) == 2**28
    with PeakMemory(device) as peak:
        torch.ones(2**26, device=device)
    assert peak.growth == 2**28
