"""Seeds for everything random, each derived from the run's seed and the name of what it is for.

A stage that is repeated, resumed or run alone therefore draws the same numbers: nothing depends on what was drawn
before it.
"""

from __future__ import annotations

import hashlib


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose.

    >>> derive(0, "order", 3) == derive(0, "order", 3)
    True
    >>> derive(0, "order", 3) == derive(0, "order", 4)
    False
    """
    words = "\x1f".join([str(seed), *(str(word) for word in purpose)])
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1
