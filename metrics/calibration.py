"""Expected calibration error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from bench.contract import Aggregate, Observation, Score, Settings, share
from metrics.tables import ImageMetric


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> float:
    """Return the mean distance between confidence and accuracy over equal-width bins, weighted by their images.

    Bin i contains confidences in (i / bins, (i + 1) / bins]. Source: Guo et al., On Calibration of Modern Neural
    Networks, ICML 2017, equation 3.

    Args:
        confidence: ``(n,)`` in [0, 1].
        correct: ``(n,)``, 0 or 1.
        bins: number of bins.

    Example:
        >>> round(expected_calibration_error(torch.tensor([0.75, 0.75, 1.0]), torch.tensor([1, 0, 1])), 4)
        0.1667
    """
    # A confidence of exactly 0 counts in the first bin.
    number = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    # |accuracy - confidence| n_bin / n of equation 3 is the absolute sum of the differences in a bin, over n.
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, number, correct.double() - confidence.double())
    return float(gaps.abs().sum() / len(confidence))


class Calibration(ImageMetric):
    """Expected calibration error of the softmax of the logits, in percent.

    ``confidence``: the mean confidence. Table of the score: ``image``.
    """

    name = "calibration"
    version = "1"
    higher_is_better = False
    needs = frozenset({"image", "label", "prediction"})

    class Config(Settings):
        """Number of bins of equal width."""

        bins: PositiveInt = 15

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""

        def gaps(table: Mapping[str, Any]) -> Any:
            number = np.clip(np.ceil(table["confidence"] * config.bins), 1, config.bins) - 1
            return (number[:, None] == np.arange(config.bins)) * (table["correct"] - table["confidence"])[:, None]

        return {
            "": Aggregate("image", gaps, "index", scale=100.0, combine=lambda means: np.abs(means).sum(-1)),
            "confidence": share("image", "confidence", "index"),
        }

    def update(self, seen: Observation) -> None:
        """Add the predictions of one batch."""
        # Probabilities in double precision: in single many confidences would be exactly 1.
        confidence, prediction = seen.own.logits.double().softmax(1).max(1)
        self._rows.add(index=seen.index, confidence=confidence, correct=(prediction == seen.labels).long())

    def compute(self) -> Score:
        """Return the error over all images."""
        table = self._rows.arrays()
        confidence, correct = torch.from_numpy(table["confidence"]), torch.from_numpy(table["correct"])
        error = expected_calibration_error(confidence, correct, self.config.bins)
        return Score(100 * error, len(correct), {"image": table}, {"confidence": 100 * float(confidence.mean())})
