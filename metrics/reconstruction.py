"""Accuracy of what the shown prototypes carry of the logits, without the remainder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contract import Aggregate, Observation, share
from metrics.tables import ImageMetric


class Reconstruction(ImageMetric):
    """Share of test images whose class the shown prototypes predict alone: accuracy of the model's prototype logits.

    ``share``: percent of the true class's logit that they carry, ``|p| / (|p| + |l - p|)`` with the logit l and their
    part p, both without the offset, mean over images. 100: nothing is left over, as in the method of Tan et al. 2024,
    whose accuracy of initial prototypes (table 4 there) is the same number of a decomposition without refinement.

    Table of the score: ``image``.
    """

    name = "reconstruction"
    version = "1"
    needs = frozenset({"image", "label", "prediction"})

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        return {
            "": share("image", lambda table: table["prediction"] == table["label"], "index"),
            "share": Aggregate("image", "share", "index", limits=(0.0, 100.0)),
        }

    def update(self, seen: Observation) -> None:
        """Compare the two logits of one batch."""
        carried = seen.model.prototype_logits(seen.features)
        part, whole = (
            logits.gather(1, seen.labels[:, None])[:, 0].double() - seen.model.offset(seen.labels)
            for logits in (carried, seen.own.logits)
        )
        # |p| / (|p| + |l - p|): between 0 and 1 also for parts of opposite signs.
        size, rest = part.abs(), (whole - part).abs()
        # A logit of zero with nothing in it is carried whole.
        found = 100 * (1 - rest / (size + rest).clamp(min=1e-12))
        self._rows.add(index=seen.index, label=seen.labels, prediction=carried.argmax(1), share=found)
