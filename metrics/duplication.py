"""Duplicate prototypes within a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bench.contract import (
    Aggregate,
    Metric,
    NotApplicable,
    Observation,
    PrototypeTable,
    Samples,
    Score,
    Settings,
    share,
)
from metrics.parts import PositiveShare, class_maps


def likeness(maps: Tensor) -> Tensor:
    """Compute the correlation over cells of every two maps of an image; constant maps are alike.

    Args:
        maps: ``(N, K, h, w)``.

    Returns:
        float64 ``(N, K, K)``.
    """
    flat = maps.double().flatten(2)
    flat = flat - flat.mean(2, keepdim=True)
    size = flat.norm(dim=2, keepdim=True)
    # Constant but for rounding: such maps have no correlation, and are alike.
    still = size[:, :, 0] <= 1e-12 * maps.double().abs().amax((2, 3)).clamp(min=1e-300)
    unit = torch.where(still[:, :, None], 0.0, flat / size.clamp(min=1e-300))
    return unit @ unit.transpose(1, 2) + (still[:, :, None] & still[:, None]).double()


class Duplication(Metric):
    """Share of (prototype, class) pairs whose maps another prototype of the class repeats.

    Two repeat each other if the correlation of their maps over the cells, averaged over the class's test images, is at
    least 0.95; their vectors do not matter. Cells that look partly beyond the image (``model.border``) are left out.
    ``sources``: share of prototypes projected onto a patch that another one has too, if the method projects.

    Table of the score: ``prototype``.
    """

    name = "duplication"
    version = "2"
    higher_is_better = False
    needs = frozenset({"image", "label"})

    class Config(Settings):
        """Mean correlation from which two prototypes count as the same."""

        threshold: PositiveShare = 0.95

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the mean that the number is."""
        return {"": share("prototype", "repeated", "class"), "sources": "the projected patches are not in its table"}

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        owners = prototypes.classes
        width = int(owners.sum(0).max()) if owners.numel() else 0
        if width < 2:
            raise NotApplicable("no class has two prototypes")
        self._sum = torch.zeros(owners.shape[1], width, width, dtype=torch.float64, device=owners.device)
        self._images = torch.zeros(owners.shape[1], dtype=torch.long, device=owners.device)

    def update(self, seen: Observation) -> None:
        """Compare the maps of one batch."""
        _, maps, _ = class_maps(seen)
        # Zeros beyond the image give all maps the same frame, which would count as likeness.
        edge = seen.model.border
        maps = maps[:, :, edge : maps.shape[2] - edge, edge : maps.shape[3] - edge]
        labels = seen.labels.to(self._sum.device)
        self._sum.index_add_(0, labels, likeness(maps).to(self._sum.device))
        self._images.index_add_(0, labels, torch.ones_like(labels))

    def compute(self) -> Score:
        """Return the percentage over pairs whose class has test images."""
        classes = (self._images > 0).nonzero()[:, 0]
        if not len(classes):
            raise NotApplicable("there is no test image to measure it on")
        indices = self.prototypes.of(classes)
        real = indices >= 0
        mean = self._sum[classes] / self._images[classes, None, None]
        # Neither padding nor the prototype itself counts as a repetition.
        other = ~torch.eye(mean.shape[1], dtype=torch.bool, device=mean.device)
        pairs = other & real[:, :, None] & real[:, None]
        nearest = torch.where(pairs, mean, -1.0).amax(2)
        # A correlation that reaches the threshold but for rounding reaches it.
        repeated = (nearest >= self.config.threshold - 1e-9)[real]
        if not len(repeated):
            raise NotApplicable("no class with a test image has a prototype")
        table = {
            "prototype": indices[real],
            "class": classes[:, None].expand_as(indices)[real],
            "repeated": repeated.long(),
            "nearest": nearest[real],
        }
        also = {}
        projected = self.prototypes.source_image >= 0
        if projected.any():
            patches = torch.cat((self.prototypes.source_image[:, None], self.prototypes.source_patch), 1)[projected]
            _, inverse, counts = patches.unique(dim=0, return_inverse=True, return_counts=True)
            # Prototypes of one patch are the same vector, whatever their maps are.
            also["sources"] = 100 * float((counts[inverse] > 1).double().mean())
        items = {"prototype": {name: column.cpu().numpy() for name, column in table.items()}}
        return Score(100 * float(repeated.double().mean()), len(repeated), items, also)
