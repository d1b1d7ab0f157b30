"""Does a method that starts from a trained classifier still say what the classifier says?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contract import Aggregate, Metric, NotApplicable, Observation, PrototypeTable, Samples, Score, share
from metrics.tables import Table


class Fidelity(Metric):
    """Share of test images with the black box's prediction.

    ``accuracy_gain``: accuracy minus that of the black box, in points. ``logit_difference``: the largest absolute
    difference of a logit, in logits. Source: spec/metrics.md, section 7. Table of the score: ``image``.
    """

    name = "fidelity"
    version = "1"
    needs = frozenset({"image", "label", "prediction", "black_box"})

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """What the numbers are means of."""

        def gain(table: Mapping[str, Any]) -> Any:
            right = [(table[which] == table["label"]).astype(float) for which in ("prediction", "black_box")]
            return right[0] - right[1]

        return {
            "": share("image", lambda table: table["prediction"] == table["black_box"], "index"),
            "accuracy_gain": Aggregate("image", gain, "index", scale=100.0, higher_is_better=True),
            "logit_difference": "it is the largest of all images, which no resample can exceed",
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        self._rows = Table("index")

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
        """The percentage over all images."""
        table = self._rows.arrays()
        gain = (table["prediction"] == table["label"]).mean() - (table["black_box"] == table["label"]).mean()
        also = {"accuracy_gain": 100 * float(gain), "logit_difference": float(table["difference"].max())}
        agreed = (table["prediction"] == table["black_box"]).mean()
        return Score(100 * float(agreed), len(table["index"]), {"image": table}, also)
