"""Consistency that counts only where a prototype does better than looking at a fixed place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
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
from metrics.consistency import reached
from metrics.fixed_positions import best_positions, fixed_hits, grid
from metrics.parts import HALF, HitCounts, Region, Units, arrays, class_hits
from metrics.peaks import CANVAS


class ControlledConsistency(Metric):
    """Share of (prototype, class) pairs consistent by a part that the class's constant place hits less often.

    A pair counts if it hits some part in at least 80 % of the class's test images that show it, and hits that part in
    more of them than the class's place does: the pixel of a grid that hits some one part most often in the class's
    training images. ``every``: in more of them than any pixel of the grid does, so no place explains it. The definition
    is ours; spec/metrics.md, section 5, consequence (ii).

    Table of the score: ``prototype`` (one row per pair, with the class's place).
    """

    name = "consistency_controlled"
    version = "1"
    needs = frozenset({"image", "label", "keypoints"})

    class Config(Settings):
        """The definition.

        Attributes:
            half_size: the region's half side in pixels.
            threshold: share of the images that a part must be hit in.
            size: the canvas' side in pixels.
            grid: step of the grid of places in pixels.
            enough: training images that must show a part for it to decide on the place.
        """

        half_size: NonNegativeInt = HALF
        threshold: float = 0.8
        size: PositiveInt = CANVAS
        grid: PositiveInt = 16
        enough: NonNegativeInt = 10

        def model_post_init(self, context: Any, /) -> None:
            """Refuse what has no meaning."""
            if not 0 < self.threshold <= 1:
                raise ValueError("threshold lies in (0, 1]")

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """What the numbers are means of."""
        every = share("prototype", "every", "class", higher_is_better=True)
        return {"": share("prototype", "counted", "class"), "every": every}

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        if not len(samples.parts):
            raise NotApplicable("the data set has no part key-points")
        self._hits = HitCounts(Units(prototypes.classes), len(samples.parts))
        self._pixels = grid(config.grid, config.size)
        self._places: Tensor | None = None

    def prepare(self, train: Samples) -> None:
        """Choose each class's place."""
        self._places = best_positions(*self._fixed(train), enough=self.config.enough)

    def _fixed(self, split: Samples) -> tuple[Tensor, Tensor]:
        return fixed_hits(split, self._pixels, self.config.half_size, self.config.size)

    def update(self, seen: Observation) -> None:
        """Count the hits of one batch."""
        if len(self._hits.units):
            self._hits.add(class_hits(seen, Region(self.config.half_size, self.config.size)), seen.index)

    def compute(self) -> Score:
        """The percentage over all pairs."""
        units = self._hits.units
        units.require()
        assert self._places is not None, "prepare() comes first"
        label = units.label.cpu()
        places = self._places[label]
        # All these counts are over the same images, so of two rates of a part the larger has the larger count.
        fixed = self._fixed(self.samples)[0][label].to(units.label.device)
        passed = reached(self._hits.hits, self._hits.visible, self.config.threshold)
        own_place = fixed[torch.arange(len(label)), places]
        counted = (passed & (self._hits.hits > own_place)).any(1)
        every = (passed & (self._hits.hits > fixed.amax(1))).any(1)
        prototype = {
            **units.columns(),
            "counted": counted.long(),
            "every": every.long(),
            "row": self._pixels[places, 0],
            "column": self._pixels[places, 1],
        }
        return Score(
            value=100 * int(counted.sum()) / len(units),
            n=len(units),
            items={"prototype": arrays(prototype)},
            also={"every": 100 * int(every.sum()) / len(units)},
        )
