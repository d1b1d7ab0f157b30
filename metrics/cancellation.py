"""Cancellation between the maps of a class's prototypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contract import Aggregate, Observation
from metrics.parts import class_maps
from metrics.tables import ImageMetric


class Cancellation(ImageMetric):
    """Sum of the norms of a class's prototype maps over the norm of their sum: 1 = none, large = they cancel.

    Norms are over the cells of an image; the value is the mean over the test images whose class has prototypes with
    maps other than zero. For a decomposed classifier the maps are contributions (times HW). Table: ``image``.
    """

    name = "cancellation"
    version = "1"
    unit = ""
    higher_is_better = False
    needs = frozenset({"image", "label", "prediction"})
    empty = "no test image has a class with a prototype map other than zero"

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the mean that the number is."""
        return {"": Aggregate("image", "ratio", "index")}

    def update(self, seen: Observation) -> None:
        """Compare the norms of one batch."""
        indices, maps, _ = class_maps(seen)
        if not indices.numel():
            return
        maps = (maps * (indices >= 0)[:, :, None, None]).double().flatten(2)
        # The triangle inequality: the norms add up to no less than the norm of the sum.
        parts, whole = maps.norm(dim=2).sum(1), maps.sum(1).norm(dim=1)
        kept = parts > 0
        # Perfect cancellation has no finite ratio; 1e-12 of the parts is the rest that rounding leaves of them.
        ratio = parts / whole.clamp(min=1e-12 * parts)
        self._rows.add(kept, index=seen.index, label=seen.labels, ratio=ratio)
