"""Settings of torch under which cells are computed."""

import subprocess
import sys

PROGRAM = """
import torch
from bench.core.environment import make_deterministic

make_deterministic()
assert torch.get_deterministic_debug_mode() == 1
print(torch.empty(1000, 1000).isnan().all().item())  # old memory may look like a NaN here and there
"""


def test_new_tensors_are_not_filled_under_determinism():
    """torch fills them with NaN by default then: a third of the time of decoding, and a kernel each on a GPU."""
    program = [sys.executable, "-c", PROGRAM]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout.split() == ["False"]
    filled = PROGRAM.replace(
        "make_deterministic()\nassert", "torch.use_deterministic_algorithms(True, warn_only=True)\nassert"
    )
    filled = [sys.executable, "-c", filled]
    assert subprocess.run(filled, capture_output=True, text=True, check=True).stdout.split() == ["True"]
