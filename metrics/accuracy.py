"""Top-1 accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contract import Aggregate, CellError, NotApplicable, Observation, Score, share
from metrics.tables import ImageMetric


class Accuracy(ImageMetric):
    """Top-1 accuracy in percent on the whole test split, without test-time augmentation.

    If several classes share the highest logit, the first of them is the prediction.

    Table of the score: ``image`` (index, label, prediction, correct).
    """

    name = "accuracy"
    version = "1"
    needs = frozenset({"image", "label", "prediction"})

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the mean that the number is."""
        return {"": share("image", "correct", "index")}

    def update(self, seen: Observation) -> None:
        """Add the predictions of one batch."""
        logits = seen.own.logits
        # argmax returns the position of a NaN, if any, as if it were the largest value.
        positions = seen.positions
        seen.require(
            ~logits.isnan().any(1),
            lambda rows: CellError(
                f"the logits of {len(rows)} images are NaN; the first is test image {int(positions[rows[0]])}. "
                "The fit has probably diverged: look at its losses."
            ),
        )
        prediction = logits.argmax(1)
        correct = (prediction == seen.labels).long()
        self._rows.add(index=seen.index, label=seen.labels, prediction=prediction, correct=correct)

    def compute(self) -> Score:
        """Return the percentage over all images."""
        try:
            table = self._rows.arrays()
        except NotApplicable as error:
            raise CellError("the test split is empty, so accuracy is not defined") from error
        count = len(table["index"])
        return Score(value=100 * int(table["correct"].sum()) / count, n=count, items={"image": table})
