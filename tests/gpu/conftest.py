"""What tests on a CUDA device share."""

from collections.abc import Iterator

import pytest
import torch

from bench.core import environment


@pytest.fixture
def deterministic() -> Iterator[None]:
    """The switches of a run, but what has no deterministic form is an error, where a run warns."""
    before = torch.get_deterministic_debug_mode()
    environment.make_deterministic()
    torch.set_deterministic_debug_mode("error")
    yield
    torch.set_deterministic_debug_mode(before)
