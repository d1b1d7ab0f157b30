"""Agreement of prototypes and annotated parts at key-points (van der Klis et al., PDiscoNet, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bench.contract import Aggregate, Metric, NotApplicable, Observation, PrototypeTable, Samples, Score, share
from metrics.parts import class_maps, to_canvas
from metrics.peaks import CANVAS, matrix_on
from metrics.tables import Table


def values_at(maps: Tensor, points: Tensor, size: int = CANVAS) -> Tensor:
    """Return the values of bicubically upsampled maps at given pixels.

    Args:
        maps: ``(N, K, h, w)``.
        points: int64 ``(N, parts, 2)`` row and column on the canvas.
        size: side of the canvas in pixels.

    Returns:
        float64 ``(N, parts, K)``.
    """
    down, across = (matrix_on(maps.device, side, size) for side in maps.shape[2:])
    rows, columns = down[points[:, :, 0]], across[points[:, :, 1]]
    return torch.einsum("nph,nkhw,npw->npk", rows, maps.double(), columns)


class PartAgreement(Metric):
    """Normalised mutual information of the most present prototype at each visible key-point and the annotated part.

    It is computed within each class that shows two parts or more, since a class's prototypes are its own, and averaged
    over classes, in percent. ``ari``: the adjusted Rand index instead, which is 0 for chance. ``overall``: the
    information over all classes at once, for methods whose prototypes mean the same part in several. Both scores are
    scikit-learn's, as in ``engine/eval_interpretability_nmi_ari_keypoint.py`` of ananthu-aniraj/pdiscoformer.

    Table of the score: ``class``.
    """

    name = "part_agreement"
    version = "1"
    needs = frozenset({"image", "label", "keypoints"})

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        return {
            "": share("class", "nmi", "class"),
            "ari": Aggregate("class", "ari", "class", scale=100.0, higher_is_better=True),
            "overall": "its table does not contain the prototypes at the key-points",
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        if not prototypes.classes.numel() or int(prototypes.classes.sum(0).max()) < 2:
            raise NotApplicable("no class has two prototypes to tell parts apart")
        self._rows = Table("index", "part")

    def update(self, seen: Observation) -> None:
        """Find the prototype at every key-point of one batch."""
        indices, maps, _ = class_maps(seen)
        points = to_canvas(seen.keypoints, seen.size).long().clamp(0, CANVAS - 1)
        values = values_at(maps, points)
        # Padding of smaller classes must never be the most present.
        slot = torch.where((indices >= 0)[:, None], values, -torch.inf).argmax(2)
        kept = seen.visible & (indices >= 0).any(1, keepdim=True)
        index, label = (values[:, None].expand(kept.shape).flatten() for values in (seen.index, seen.labels))
        part = torch.arange(kept.shape[1], device=kept.device).expand(kept.shape).flatten()
        self._rows.add(kept.flatten(), index=index, label=label, part=part, prototype=indices.gather(1, slot).flatten())

    def compute(self) -> Score:
        """Return the mean over classes."""
        try:
            from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
        except ImportError as error:
            raise NotApplicable("scikit-learn is not installed: pip install scikit-learn") from error
        table = self._rows.arrays()
        part, prototype = table["part"], table["prototype"]
        classes, shared, rand = [], [], []
        for label in sorted(set(table["label"].tolist())):
            of_class = table["label"] == label
            # With one part only, both scores are constants that say nothing about the prototypes.
            if len(set(part[of_class].tolist())) > 1:
                classes.append(label)
                shared.append(normalized_mutual_info_score(part[of_class], prototype[of_class]))
                rand.append(adjusted_rand_score(part[of_class], prototype[of_class]))
        if not classes:
            raise NotApplicable("no class shows two parts in its test images")
        lists = {"class": classes, "nmi": shared, "ari": rand}
        columns = {name: torch.tensor(values).numpy() for name, values in lists.items()}
        also = {"ari": 100 * float(columns["ari"].mean())}
        # Over all classes at once, as PDiscoNet does for parts that classes share.
        also["overall"] = 100 * float(normalized_mutual_info_score(part, prototype))
        return Score(100 * float(columns["nmi"].mean()), len(classes), {"class": columns}, also)
