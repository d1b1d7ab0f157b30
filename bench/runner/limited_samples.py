"""A split that is read within limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from bench.contract import Batch, Samples


class Guarded:
    """The same split for whoever reads it (training, projection, evaluation), in batches that are not too large.

    Args:
        samples: the split.
        most: images at a time; ``None``: as many as are asked for.
        check: called before each batch is given out and after the last; it raises to end the reading.
    """

    def __init__(self, samples: Samples, most: int | None, check: Callable[[], None]) -> None:
        self.samples, self.most, self.check = samples, most, check

    def __getattr__(self, name: str) -> Any:
        if name == "samples":  # not there yet while a copy is being made
            raise AttributeError(name)
        return getattr(self.samples, name)

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self, batch_size: int, device: torch.device | str = "cpu", **how: Any) -> Iterator[Batch]:
        """As the split's own, of at most ``most`` images."""
        for batch in self.samples.batches(min(batch_size, self.most or batch_size), device, **how):
            self.check()
            yield batch
        self.check()
