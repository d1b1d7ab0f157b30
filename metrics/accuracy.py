"""How often is the highest logit that of the true class?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bench.contract import Aggregate, CellError, Metric, Observation, PrototypeTable, Samples, Score, share
from metrics.parts import columns


class Accuracy(Metric):
    """Top-1 accuracy in percent on the whole test split, without test-time augmentation (metrics.md, section 7).

    Where several classes share the highest logit, the first of them is the prediction.

    Table of the score: ``image`` (index, label, prediction, correct).
    """

    name = "accuracy"
    version = "1"
    needs = frozenset({"image", "label", "prediction"})

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """What the numbers are means of."""
        return {"": share("image", "correct", "index")}

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        self._rows: list[Tensor] = []

    def update(self, seen: Observation) -> None:
        """Take in the predictions of one batch."""
        logits = seen.own.logits
        # argmax takes a NaN for the largest value there is, and would call it a prediction.
        broken = logits.isnan().any(1)
        if broken.any():
            raise CellError(
                f"the logits of {int(broken.sum())} images are NaN; the first is test image "
                f"{int(seen.index[broken][0])}. The fit has probably diverged: look at its losses."
            )
        prediction = logits.argmax(1)
        correct = (prediction == seen.labels).long()
        self._rows.append(torch.stack((seen.index, seen.labels, prediction, correct), 1))

    def compute(self) -> Score:
        """The percentage over all images."""
        if not self._rows:
            raise CellError("the test split is empty, so accuracy is not defined")
        image = columns(self._rows, ("index", "label", "prediction", "correct"), keys=1)
        count = len(image["index"])
        return Score(value=100 * int(image["correct"].sum()) / count, n=count, items={"image": image})
