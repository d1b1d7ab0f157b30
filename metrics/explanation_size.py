"""Sizes of explanations as PIP-Net publishes them (Nauta et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bench.contract import Aggregate, CellError, Observation, PrototypeTable, Samples, Score
from metrics.tables import ImageMetric

NOTHING = 1e-3
"""Weight, and term of a logit, up to which a prototype says nothing, as in ``pipnet/test.py`` of M-Nauta/PIPNet."""


class ExplanationSize(ImageMetric):
    """Local size: number of prototypes that add more than 0.001 to the logit of any class, mean over images.

    ``predicted``: those that add it to the predicted class's logit. ``whole``: prototypes with a weight above 0.001 in
    any class, the global size. ``sparsity``: share of the weights that are not, in percent. Only for models whose
    logits are weighted sums of scores. Unlike in the official code, weights do not shrink while images are looked at.

    Table of the score: ``image``.
    """

    name = "explanation_size"
    version = "1"
    unit = "prototypes"
    higher_is_better = False
    requires = ("prototypes",)
    needs = frozenset({"image", "label", "prediction"})

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        fixed = "it follows from the model's weights alone"
        return {
            "": Aggregate("image", "local", "index"),
            "predicted": Aggregate("image", "predicted", "index"),
            "whole": fixed,
            "sparsity": fixed,
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        self._weights: Tensor | None = None

    def update(self, seen: Observation) -> None:
        """Count the prototypes of one batch."""
        if self._weights is None:
            every = torch.arange(len(self.prototypes), device=seen.labels.device)
            self._weights = seen.model.connections(every[None])[0].double()
        weights, found = self._weights, seen.model.head(seen.features)
        scores, positions = found.scores.double(), seen.positions
        # A score that is no number would count as one that says nothing.
        seen.require(
            scores.isfinite().all(1),
            lambda rows: CellError(f"scores of test image {int(positions[rows[0]])} hold NaN or infinite values"),
        )
        # The largest term of a score in any logit is that of the largest weight, or of the smallest if it is negative.
        local = torch.maximum(scores * weights.amax(1), scores * weights.amin(1)) > NOTHING
        predicted = scores * weights.T[found.logits.argmax(1)] > NOTHING
        self._rows.add(index=seen.index, label=seen.labels, local=local.sum(1), predicted=predicted.sum(1))

    def compute(self) -> Score:
        """Return the mean over images."""
        score = super().compute()
        assert self._weights is not None  # there was an image
        used = self._weights > NOTHING
        sizes = {"whole": float(used.any(1).sum()), "sparsity": 100 * float((~used).double().mean())}
        return Score(score.value, score.n, score.items, {**score.also, **sizes})
