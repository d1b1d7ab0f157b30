"""Coverage: how many different parts the prototypes of a class find."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from bench.contract import Aggregate, Metric, NotApplicable, Observation, PrototypeTable, Samples, Score, Settings
from metrics.consistency import consistent, reached
from metrics.parts import HALF, HitCounts, PositiveShare, Region, Units, arrays, best_part, class_hits, require_parts
from metrics.peaks import CANVAS


def different_parts(found: Tensor, part: Tensor, label: Tensor, classes: int, parts: int) -> Tensor:
    """Count the different parts of the units of each class that count: int64 ``(classes,)``.

    Args:
        found: bool ``(units,)``, whether a unit counts.
        part: ``(units,)``, the part that it stands for.
        label: ``(units,)``, its class.
        classes: number of classes.
        parts: number of parts.

    Example:
        >>> six = torch.zeros(6, dtype=torch.long)
        >>> different_parts(six == 0, six, six, classes=1, parts=15).tolist()
        [1]
    """
    seen = torch.zeros(classes, parts, dtype=torch.bool, device=part.device)
    seen[label[found], part[found]] = True
    return seen.sum(1)


class Coverage(Metric):
    """Number of different parts that the prototypes of a class hit consistently, mean over classes with prototypes.

    A prototype stands for the part that it hits in the largest share of the class's images showing it (of equals the
    first), and counts if it is consistent: if that share reaches 80 %. So one part that six prototypes find counts
    once, and one prototype never counts twice, however many parts are near its peak. ``near``: number of parts that
    some prototype hits that often, all parts in its region. ``repeated``: share of the consistent
    prototypes that stand for the part of another one. The definition is ours, on the hits of Huang et al., ICCV 2023.

    Tables of the score: ``class`` (one row per class with prototypes) and ``prototype`` (one row per pair).
    """

    name = "coverage"
    version = "1"
    unit = "parts"
    needs = frozenset({"image", "label", "keypoints"})

    class Config(Settings):
        """Definition of the metric.

        Attributes:
            half_size: the region's half side in pixels.
            threshold: share of the images in which a part must be hit.
            size: the canvas' side in pixels.
        """

        half_size: NonNegativeInt = HALF
        threshold: PositiveShare = 0.8
        size: PositiveInt = CANVAS

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""

        def again(table: Mapping[str, Any]) -> Any:
            return table["consistent"] - table["parts"]

        return {
            "": Aggregate("class", "parts", "class"),
            "near": Aggregate("class", "near", "class", higher_is_better=True),
            # Of all classes together: a class without a consistent prototype repeats nothing.
            "repeated": Aggregate(
                "class",
                lambda table: again(table) / table["consistent"].clip(1),
                "class",
                weight="consistent",
                scale=100,
                limits=(0.0, 100.0),
                higher_is_better=False,
            ),
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        require_parts(samples)
        self._hits = HitCounts(Units(prototypes.classes), len(samples.parts))

    def update(self, seen: Observation) -> None:
        """Count the hits of one batch."""
        if len(self._hits.units):
            self._hits.add(class_hits(seen, Region(self.config.half_size, self.config.size)), seen.index)

    def compute(self) -> Score:
        """Return the mean over all classes with prototypes."""
        units, hit, visible = self._hits.units, self._hits.hits, self._hits.visible
        units.require()
        if not int(self._hits.images.sum()):
            raise NotApplicable("no test image belongs to a class that has a prototype")
        # Of equal rates the first part: a prototype counts for one part only.
        part, rate = best_part(self._hits.rates())
        passed = consistent(hit, visible, self.config.threshold)
        shape = (int(units.label.max()) + 1, hit.shape[1])
        parts = different_parts(passed, part, units.label, *shape)
        near = torch.zeros(shape, dtype=torch.long, device=part.device)
        near.index_add_(0, units.label, reached(hit, visible, self.config.threshold).long())
        count = torch.zeros(2, shape[0], dtype=torch.long, device=part.device)
        count.index_add_(1, units.label, torch.stack((passed.long(), torch.ones_like(part))))
        label = (count[1] > 0).nonzero()[:, 0]
        table = arrays({
            "class": label,
            "parts": parts[label],
            "near": (near > 0).sum(1)[label],
            "consistent": count[0, label],
            "prototypes": count[1, label],
        })  # fmt: skip
        rows = arrays({**units.columns(), "consistent": passed.long(), "part": part, "rate": rate})
        also = {"near": float(table["near"].mean())}
        if table["consistent"].any():
            # 1 - different parts / consistent prototypes, over all classes together.
            also["repeated"] = 100 * float(1 - table["parts"].sum() / table["consistent"].sum())
        return Score(float(table["parts"].mean()), len(label), {"class": table, "prototype": rows}, also)
