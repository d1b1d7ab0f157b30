"""Purity of the patches with a prototype's highest scores (Nauta et al., PIP-Net, CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveInt
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
from metrics.parts import Region, Units, arrays, class_hits, class_maps, merge_sides, require_parts
from metrics.peaks import CANVAS


class Purity(Metric):
    """Share of a prototype's highest-scoring images whose patch shows the part that these patches show most often.

    The ten images of its class with the highest score (the earlier of equals), a patch of 33 x 33 pixels around each
    peak, left and right of a part as one. Averaged over (prototype, class) pairs whose class has test images. ``pure``:
    share of pairs above 50 %. Unlike in ``util/eval_cub_csv.py`` of M-Nauta/PIPNet, patches are from the class's test
    images and centred on the peak of the upsampled map.

    Table of the score: ``prototype``.
    """

    name = "purity"
    version = "1"
    needs = frozenset({"image", "label", "keypoints"})

    class Config(Settings):
        """Number of images, and pixels from a patch's middle to its edge: larger patches are purer."""

        top: PositiveInt = 10
        half_size: PositiveInt = 16

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        pure = share("prototype", lambda table: table["purity"] > 0.5, "class", higher_is_better=True)
        return {"": share("prototype", "purity", "class"), "pure": pure}

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        require_parts(samples)
        self._units = Units(prototypes.classes)
        self._region = Region(config.half_size, CANVAS, merged=merge_sides(samples.parts))
        self._rows: list[tuple[Tensor, ...]] = []

    def update(self, seen: Observation) -> None:
        """Keep the hits and the score of every prototype in one batch."""
        if not len(self._units):
            return
        hits = class_hits(seen, self._region)
        indices, _, scores = class_maps(seen)
        # All that is no padding, of which there is as much as there are hits, in their order.
        place = torch.nonzero_static((indices >= 0).flatten(), size=len(hits.image))[:, 0]
        score = scores.flatten()[place]
        unit = self._units.rows(hits.prototype, hits.label)
        rows = (unit, seen.index[hits.image], score.double(), hits.hits)
        self._rows.append(rows)

    def compute(self) -> Score:
        """Return the mean over all pairs with images."""
        self._units.require()
        if not sum(len(rows[0]) for rows in self._rows):
            raise NotApplicable("no test image belongs to a class that has a prototype")
        unit, index, score, hit = (torch.cat(parts).cpu() for parts in zip(*self._rows, strict=True))
        # Three stable sorts: by unit, then from the highest score, then in the order of the split.
        order = index.argsort(stable=True)
        order = order[score[order].argsort(descending=True, stable=True)]
        order = order[unit[order].argsort(stable=True)]
        unit, hit = unit[order], hit[order]
        kept, inverse, counts = unit.unique_consecutive(return_inverse=True, return_counts=True)
        # Rank of each row within its unit, and number of the rows that count: classes may have fewer images than `top`.
        rank = torch.arange(len(unit)) - (counts.cumsum(0) - counts)[inverse]
        top = rank < self.config.top
        number = torch.zeros(len(kept), dtype=torch.long).index_add_(0, inverse[top], torch.ones_like(inverse[top]))
        hits = torch.zeros(len(kept), hit.shape[1], dtype=torch.long).index_add_(0, inverse[top], hit[top].long())
        # The part that most of the patches show; its share is the purity (Nauta et al. 2023).
        best = (hits.double() / number[:, None]).max(1)
        columns = {name: column.cpu()[kept] for name, column in self._units.columns().items()}
        table = {**columns, "purity": best.values, "part": best.indices, "images": number}
        pure = {"pure": 100 * float((best.values > 0.5).double().mean())}
        return Score(100 * float(best.values.mean()), len(kept), {"prototype": arrays(table)}, pure)
