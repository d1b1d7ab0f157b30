"""Do the prototypes of a class look at different places?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contract import Aggregate, Metric, NotApplicable, Observation, PrototypeTable, Samples, Score, Settings
from metrics.parts import HALF, class_maps
from metrics.peaks import CANVAS, peaks
from metrics.tables import Table


class Contrastivity(Metric):
    """Mean distance between the peaks of two prototypes of a class in an image, in percent of the image's side.

    Averaged over the pairs of an image, then over images. ``same``: share of pairs within 36 pixels of each other in
    both directions. After the location part of QuanProto's contrastivity (spec/metrics.md, section 9), on a scale of
    our own. Table of the score: ``image``.
    """

    name = "contrastivity"
    version = "1"
    needs = frozenset({"image", "label"})

    class Config(Settings):
        """How near two peaks are the same place, in pixels."""

        half_size: int = HALF

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """What the numbers are means of."""
        return {
            "": Aggregate("image", "distance", "index"),
            "same": Aggregate("image", "same", "index", limits=(0.0, 100.0), higher_is_better=False),
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        self._rows = Table("index")

    def update(self, seen: Observation) -> None:
        """Find the peaks of one batch."""
        indices, maps, _ = class_maps(seen)
        found = peaks(maps).double()
        real = indices >= 0
        apart = found[:, :, None] - found[:, None]
        pairs = (real[:, :, None] & real[:, None]).double().triu(1)
        count = pairs.sum((1, 2))
        kept = count > 0
        distance = (apart.norm(dim=3) * pairs).sum((1, 2))[kept] / count[kept]
        near = ((apart.abs().amax(3) <= self.config.half_size) * pairs).sum((1, 2))[kept] / count[kept]
        self._rows.add(
            index=seen.index[kept], label=seen.labels[kept], distance=100 * distance / CANVAS, same=100 * near
        )

    def compute(self) -> Score:
        """The mean over images whose class has two prototypes."""
        try:
            table = self._rows.arrays()
        except NotApplicable as error:
            raise NotApplicable("no test image has a class with two prototypes") from error
        same = {"same": float(table["same"].mean())}
        return Score(float(table["distance"].mean()), len(table["index"]), {"image": table}, same)
