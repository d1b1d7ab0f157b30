"""Fidelity of a method to the black box that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contract import Aggregate, NotApplicable, Observation, Score, share
from metrics.tables import ImageMetric


class Fidelity(ImageMetric):
    """Share of test images with the black box's prediction.

    ``accuracy_gain``: accuracy minus that of the black box, in points. ``logit_difference``: the largest absolute
    difference of a logit, in logits. For the paper's method both are 0 but for rounding: its logits are a sum of
    contributions that add up to the black box's (Tan et al. 2024, equation 8).

    Table of the score: ``image``.
    """

    name = "fidelity"
    version = "1"
    needs = frozenset({"image", "label", "prediction", "black_box"})

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""

        def gain(table: Mapping[str, Any]) -> Any:
            right = [(table[which] == table["label"]).astype(float) for which in ("prediction", "black_box")]
            return right[0] - right[1]

        return {
            "": share("image", lambda table: table["prediction"] == table["black_box"], "index"),
            "accuracy_gain": Aggregate("image", gain, "index", scale=100.0, higher_is_better=True),
            "logit_difference": "it is the largest of all images, which no resample can exceed",
        }

    def update(self, seen: Observation) -> None:
        """Compare the logits of one batch."""
        if seen.black_box is None:
            raise NotApplicable("it does not start from a black box")
        logits, reference = seen.own.logits, seen.black_box(seen.images)
        self._rows.add(
            index=seen.index,
            label=seen.labels,
            prediction=logits.argmax(1),
            black_box=reference.argmax(1),
            difference=(logits.double() - reference.double()).abs().amax(1),
        )

    def compute(self) -> Score:
        """Return the percentage over all images."""
        table = self._rows.arrays()
        # In points: the difference of two accuracies on the same images.
        gain = (table["prediction"] == table["label"]).mean() - (table["black_box"] == table["label"]).mean()
        also = {"accuracy_gain": 100 * float(gain), "logit_difference": float(table["difference"].max())}
        agreed = (table["prediction"] == table["black_box"]).mean()
        return Score(100 * float(agreed), len(table["index"]), {"image": table}, also)
