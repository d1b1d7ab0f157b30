"""Compactness: the number of prototypes that explain a decision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contract import Aggregate, Observation, Score, Settings
from metrics.feature_sampling import attribution
from metrics.parts import PositiveShare, class_maps
from metrics.tables import ImageMetric


class Compactness(ImageMetric):
    """Number of prototypes of the true class that make up 90 % of the sum of its scores' magnitudes, mean over images.

    Images of a class without prototypes are left out. ``whole``: number of prototypes of the model that speak for a
    class at all. ``area``: share of locations at which the displayed map of the class exceeds the middle between its
    smallest and largest value, in percent. After the local and global size of PIP-Net (Nauta et al., CVPR 2023) and
    ``metrics/compactness.py`` of uos-sis/quanproto; the threshold is ours.

    Table of the score: ``image``.
    """

    name = "compactness"
    version = "2"
    unit = "prototypes"
    higher_is_better = False
    requires = ("prototypes",)
    needs = frozenset({"image", "label", "prediction"})

    class Config(Settings):
        """Share of the scores' magnitude that has to be explained."""

        share: PositiveShare = 0.9

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        return {
            "": Aggregate("image", "needed", "index"),
            "area": Aggregate("image", "area", "index", limits=(0.0, 100.0)),
            "whole": "it is a count of the model's prototypes",
        }

    def update(self, seen: Observation) -> None:
        """Sort the scores of one batch."""
        indices, _, scores = class_maps(seen)
        kept = (indices >= 0).any(1)
        size = (scores.double().abs() * (indices >= 0)).sort(1, descending=True).values
        # A prototype is needed if the sum before it is still below the share; a sum that reaches the share but for
        # rounding reaches it.
        before = size.cumsum(1) - size
        needed = ((before < self.config.share * size.sum(1, keepdim=True) * (1 - 1e-12)) & (size > 0)).sum(1)
        shown = attribution(seen.model, seen.features, seen.labels, "displayed", alike=False, require=seen.require)
        low, high = shown.amin(1, keepdim=True), shown.amax(1, keepdim=True)
        area = 100 * (shown > (low + high) / 2).double().mean(1)
        self._rows.add(kept, index=seen.index, label=seen.labels, needed=needed, area=area)

    def compute(self) -> Score:
        """Return the mean over images."""
        score = super().compute()
        whole = {"whole": float(self.prototypes.classes.any(1).sum())}
        return Score(score.value, score.n, score.items, {**whole, **score.also})
