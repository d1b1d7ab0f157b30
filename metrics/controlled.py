"""Consistency beyond that of a fixed position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from bench.contract import Aggregate, Metric, Observation, PrototypeTable, Samples, Score, Settings, share
from metrics.consistency import reached
from metrics.fixed_positions import best_positions, fixed_hits, grid
from metrics.parts import HALF, HitCounts, PositiveShare, Region, Units, arrays, class_hits, require_parts
from metrics.peaks import CANVAS


class ControlledConsistency(Metric):
    """Share of (prototype, class) pairs consistent by a part that the class's fixed position hits less often.

    A pair counts if it hits some part in at least 80 % of the class's test images that show it, and hits that part in
    more of them than the class's fixed position does: the pixel of a grid that hits some one part most often in the
    class's training images. ``every``: in more of them than any pixel of the grid does, so no fixed position explains
    it. The definition is ours, after the controls of :mod:`metrics.controls`.

    Table of the score: ``prototype`` (one row per pair, with the row and column of the class's position).
    """

    name = "consistency_controlled"
    version = "1"
    needs = frozenset({"image", "label", "keypoints"})

    class Config(Settings):
        """Definition of the metric.

        Attributes:
            half_size: the region's half side in pixels.
            threshold: share of the images in which a part must be hit.
            size: the canvas' side in pixels.
            grid: step of the grid of positions in pixels.
            enough: training images that must show a part for it to decide on the position.
        """

        half_size: NonNegativeInt = HALF
        threshold: PositiveShare = 0.8
        size: PositiveInt = CANVAS
        grid: PositiveInt = 16
        enough: NonNegativeInt = 10

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        every = share("prototype", "every", "class", higher_is_better=True)
        return {"": share("prototype", "counted", "class"), "every": every}

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        require_parts(samples)
        self._hits = HitCounts(Units(prototypes.classes), len(samples.parts))
        self._pixels = grid(config.grid, config.size)
        self._chosen: Tensor | None = None

    def prepare(self, train: Samples) -> None:
        """Choose each class's position."""
        self._chosen = best_positions(*self._fixed(train), enough=self.config.enough)

    def _fixed(self, split: Samples) -> tuple[Tensor, Tensor]:
        return fixed_hits(split, self._pixels, self.config.half_size, self.config.size)

    def update(self, seen: Observation) -> None:
        """Count the hits of one batch."""
        if len(self._hits.units):
            self._hits.add(class_hits(seen, Region(self.config.half_size, self.config.size)), seen.index)

    def compute(self) -> Score:
        """Return the percentage over all pairs."""
        units = self._hits.units
        units.require()
        assert self._chosen is not None, "prepare() comes first"
        label = units.label.cpu()
        chosen = self._chosen[label]
        # All these counts are over the same images, so of two rates of a part the larger has the larger count.
        fixed = self._fixed(self.samples)[0][label].to(units.label.device)
        passed = reached(self._hits.hits, self._hits.visible, self.config.threshold)
        of_chosen = fixed[torch.arange(len(label)), chosen]
        counted = (passed & (self._hits.hits > of_chosen)).any(1)
        every = (passed & (self._hits.hits > fixed.amax(1))).any(1)
        prototype = {
            **units.columns(),
            "counted": counted.long(),
            "every": every.long(),
            "row": self._pixels[chosen, 0],
            "column": self._pixels[chosen, 1],
        }
        return Score(
            value=100 * int(counted.sum()) / len(units),
            n=len(units),
            items={"prototype": arrays(prototype)},
            also={"every": 100 * int(every.sum()) / len(units)},
        )
