"""Contrastivity: distance between the peaks of a class's prototypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contract import Aggregate, Observation, Settings
from metrics.parts import HALF, class_maps, class_peaks
from metrics.peaks import CANVAS
from metrics.tables import ImageMetric


class Contrastivity(ImageMetric):
    """Mean distance between the peaks of two prototypes of a class in an image, in percent of the image's side.

    Averaged over the pairs of an image, then over images. ``same``: share of pairs within 36 pixels of each other in
    both directions. After the location part of ``metrics/contrastivity.py`` of uos-sis/quanproto; the scale is ours.

    Table of the score: ``image``.
    """

    name = "contrastivity"
    version = "1"
    needs = frozenset({"image", "label"})
    empty = "no test image has a class with two prototypes"

    class Config(Settings):
        """Distance in pixels up to which two peaks count as the same position."""

        half_size: int = HALF

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        return {
            "": Aggregate("image", "distance", "index"),
            "same": Aggregate("image", "same", "index", limits=(0.0, 100.0), higher_is_better=False),
        }

    def update(self, seen: Observation) -> None:
        """Find the peaks of one batch."""
        positions, real = class_peaks(seen).double(), class_maps(seen)[0] >= 0
        apart = positions[:, :, None] - positions[:, None]
        # Each pair once, and none with padding.
        pairs = (real[:, :, None] & real[:, None]).double().triu(1)
        count = pairs.sum((1, 2))
        kept = count > 0
        distance = (apart.norm(dim=3) * pairs).sum((1, 2)) / count
        # Within the half side of the region of Huang et al. in both directions: one region contains both peaks.
        near = ((apart.abs().amax(3) <= self.config.half_size) * pairs).sum((1, 2)) / count
        self._rows.add(kept, index=seen.index, label=seen.labels, distance=100 * distance / CANVAS, same=100 * near)
