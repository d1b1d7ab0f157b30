"""Do a class's prototypes add up, or do they cancel each other?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contract import Aggregate, Metric, NotApplicable, Observation, PrototypeTable, Samples, Score
from metrics.parts import class_maps
from metrics.tables import Table


class Cancellation(Metric):
    """The sum of the norms of a class's prototype maps over the norm of their sum: 1 = none, large = they cancel.

    Norms are over the cells of an image; the value is the mean over the test images whose class has prototypes with
    maps other than zero. For a decomposed classifier the maps are contributions (times HW). Table: ``image``.
    """

    name = "cancellation"
    version = "1"
    unit = ""
    higher_is_better = False
    needs = frozenset({"image", "label", "prediction"})

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """What the numbers are means of."""
        return {"": Aggregate("image", "ratio", "index")}

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        self._rows = Table("index")

    def update(self, seen: Observation) -> None:
        """Compare the norms of one batch."""
        indices, maps, _ = class_maps(seen)
        if not indices.numel():
            return
        maps = (maps * (indices >= 0)[:, :, None, None]).double().flatten(2)
        parts, whole = maps.norm(dim=2).sum(1), maps.sum(1).norm(dim=1)
        kept = parts > 0
        # Perfect cancellation has no finite ratio; 1e-12 of the parts is what is left of them by rounding.
        ratio = parts[kept] / whole[kept].clamp(min=1e-12 * parts[kept])
        self._rows.add(index=seen.index[kept], label=seen.labels[kept], ratio=ratio)

    def compute(self) -> Score:
        """The mean over images."""
        try:
            table = self._rows.arrays()
        except NotApplicable as error:
            raise NotApplicable("no test image has a class with a prototype map other than zero") from error
        return Score(float(table["ratio"].mean()), len(table["index"]), {"image": table})
