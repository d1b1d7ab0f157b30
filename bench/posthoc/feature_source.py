"""Sources of the features of a class: the interface, and features straight from a backbone."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from bench.contract import Samples

# Images per forward pass.
_BATCH = 64


class FeatureSource(Protocol):
    """Features of each class, from a file, memory, or the backbone itself."""

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of a feature map."""

    @property
    def channels(self) -> int:
        """Number of channels, D."""

    def count(self, label: int) -> int:
        """Return the number of images of a class."""

    def of(self, label: int) -> tuple[Tensor, Tensor]:
        """Return features ``(n, locations, D)`` of a class in single precision and its images' indices ``(n,)``."""


class BackboneFeatures:
    """:class:`FeatureSource` that runs the backbone over a class's images on request.

    Memory does not grow with the data set.
    """

    def __init__(self, backbone: nn.Module, samples: Samples, device: torch.device) -> None:
        self._backbone, self._samples, self._device = backbone, samples, device
        self._counts = torch.bincount(samples.labels, minlength=samples.classes).tolist()
        first = next(iter(samples.batches(1, device, index=torch.zeros(1, dtype=torch.long))))
        with torch.no_grad():
            self.channels, *grid = backbone(first.images).shape[1:]
        self.grid = (int(grid[0]), int(grid[1]))

    def count(self, label: int) -> int:
        """Return the number of images of a class."""
        return int(self._counts[label])

    @torch.no_grad()
    def of(self, label: int) -> tuple[Tensor, Tensor]:
        """Compute features ``(n, locations, D)`` of a class; with the images' indices ``(n,)`` in the split."""
        # No batch holds images of two classes: the bits of a class do not depend on which others are computed.
        index = (self._samples.labels == label).nonzero().flatten()
        batches = self._samples.batches(_BATCH, self._device, index=index)
        return torch.cat([self._backbone(batch.images).float().flatten(2).mT for batch in batches]), index
