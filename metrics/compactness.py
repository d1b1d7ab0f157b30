"""How much has to be looked at to follow one decision?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contract import (
    Aggregate,
    CellError,
    Metric,
    NotApplicable,
    Observation,
    PrototypeTable,
    Samples,
    Score,
    Settings,
)
from metrics.parts import class_maps
from metrics.tables import Table


class Compactness(Metric):
    """How many prototypes of the true class make up 90 % of the sum of the magnitudes of its scores, mean over images.

    Images of a class without prototypes are left out.
    ``whole``: how many prototypes of the model speak for a class at all. ``area``: share of cells where the displayed
    map of the class exceeds the middle between its smallest and largest value, in percent. After the local and global
    size of PIP-Net and QuanProto (spec/metrics.md, section 9); the threshold is ours. Table of the score: ``image``.
    """

    name = "compactness"
    version = "2"
    unit = "prototypes"
    higher_is_better = False
    needs = frozenset({"image", "label", "prediction"})

    class Config(Settings):
        """The share of the scores' magnitude that has to be explained."""

        share: float = 0.9

        def model_post_init(self, context: Any, /) -> None:
            """Refuse what has no meaning."""
            if not 0 < self.share <= 1:
                raise ValueError("share lies in (0, 1]")

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """What the numbers are means of."""
        return {
            "": Aggregate("image", "needed", "index"),
            "area": Aggregate("image", "area", "index", limits=(0.0, 100.0)),
            "whole": "it is a count of the model's prototypes",
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        if not prototypes.classes.any():
            raise NotApplicable("the model has no prototype that speaks for a class, so there is nothing to score")
        self._rows = Table("index")

    def update(self, seen: Observation) -> None:
        """Sort the scores of one batch."""
        indices, _, scores = class_maps(seen)
        own = (indices >= 0).any(1)
        size = (scores.double().abs() * (indices >= 0)).sort(1, descending=True).values
        # Those that are needed: before each of them the sum so far is still below the share.
        before = size.cumsum(1) - size
        needed = ((before < self.config.share * size.sum(1, keepdim=True) * (1 - 1e-12)) & (size > 0)).sum(1)
        shown = seen.model.attribute(seen.features, seen.labels).double().flatten(1)
        if not shown.isfinite().all():
            raise CellError(
                "an attribution map holds NaN or infinite values: look for a division by zero in the method"
            )
        low, high = shown.amin(1, keepdim=True), shown.amax(1, keepdim=True)
        area = 100 * (shown > (low + high) / 2).double().mean(1)
        self._rows.add(index=seen.index[own], label=seen.labels[own], needed=needed[own], area=area[own])

    def compute(self) -> Score:
        """The mean over images."""
        table = self._rows.arrays()
        also = {"whole": float(self.prototypes.classes.any(1).sum()), "area": float(table["area"].mean())}
        return Score(float(table["needed"].mean()), len(table["index"]), {"image": table}, also)
