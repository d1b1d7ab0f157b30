"""Features straight from the backbone, class by class, so that memory does not grow with the data set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.contract import Samples

_BATCH = 64


class BackboneFeatures:
    """A :class:`bench.posthoc.pipeline.FeatureSource` that runs the backbone over a class's images when asked.

    No batch holds images of two classes: what a class gets does not depend on which others are asked for.

    Args:
        backbone: images -> features ``(N, D, h, w)``, in eval mode.
        samples: the training split.
        device: where the backbone is.
    """

    def __init__(self, backbone: nn.Module, samples: Samples, device: torch.device) -> None:
        self._backbone, self._samples, self._device = backbone, samples, device
        self._counts = torch.bincount(samples.labels, minlength=samples.classes).tolist()
        first = next(iter(samples.batches(1, device, index=torch.zeros(1, dtype=torch.long))))
        with torch.no_grad():
            self.channels, *grid = backbone(first.images).shape[1:]
        self.grid = (int(grid[0]), int(grid[1]))

    def count(self, label: int) -> int:
        """How many images of a class there are."""
        return int(self._counts[label])

    @torch.no_grad()
    def of(self, label: int) -> tuple[Tensor, Tensor]:
        """Features ``(n, cells, D)`` of a class, and the images' places in the split."""
        index = (self._samples.labels == label).nonzero().flatten()
        batches = self._samples.batches(_BATCH, self._device, index=index)
        return torch.cat([self._backbone(batch.images).float().flatten(2).mT for batch in batches]), index
