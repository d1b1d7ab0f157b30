"""Seeds for everything random, each derived from the run's seed and the name of its purpose.

A stage that is repeated, resumed or run alone therefore draws the same numbers: nothing depends on earlier draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager


def derive(seed: int, *purpose: object) -> int:
    """Return a 63-bit seed for one purpose.

    Args:
        seed: the seed of the run.
        purpose: names and numbers that identify the purpose; changing one changes everything drawn with it.

    >>> derive(0, "order", 3) == derive(0, "order", 3)
    True
    >>> derive(0, "order", 3) == derive(0, "order", 4)
    False
    """
    # The separator keeps ("a", "bc") and ("ab", "c") apart.
    words = "\x1f".join([str(seed), *(str(word) for word in purpose)])
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's numbers in the block from a seed; after it, the running generator goes on as if it had not been."""
    import torch  # the command line derives seeds before torch is imported

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
