"""Does a prototype mean the same part in every image of its class? (Huang et al., ICCV 2023; official version 2.)"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from bench.contract import Metric, Observation, PrototypeTable, Samples, Score, Settings
from metrics.parts import CANVAS, HALF, Pairs, columns, own_hits


def consistent(hits: Tensor, visible: Tensor, threshold: float = 0.8) -> Tensor:
    """Whether some part is hit in at least ``threshold`` of the images that show it (metrics.md, section 2.3).

    Args:
        hits: int64 ``(..., parts)``, in how many images the part was hit.
        visible: int64 ``(..., parts)``, in how many it is visible; a part that never is does not count.
        threshold: between 0 and 1; its decimal value is meant, so 4 hits of 5 reach 0.8.

    Returns:
        bool ``(...)``.

    Example:
        >>> consistent(torch.tensor([[4, 1], [3, 0]]), torch.tensor([[5, 9], [4, 0]])).tolist()
        [True, False]
    """
    # In whole numbers: the float nearest to 0.8 lies above it, and products with it round either way.
    limit = Fraction(str(threshold)).limit_denominator(10**6)
    return ((limit.denominator * hits >= limit.numerator * visible) & (visible > 0)).any(-1)


class Consistency(Metric):
    """Share of (prototype, class) pairs that hit one and the same part in >= 80 % of the class's images.

    A pair whose class has no test image, or never shows a part, is not consistent (the published 0/1 rule). Source:
    metrics.md, sections 2.3 and 4 (option A).

    Tables of the score: ``prototype`` (one row per pair: ``best_part`` is -1 where no part is ever visible) and
    ``image`` (one row per image and prototype of its class: where it peaks).
    """

    name = "consistency"
    version = "v2"
    needs = frozenset({"image", "label", "keypoints"})

    class Config(Settings):
        """The region's half side and the canvas' side in pixels, and the share of images a part must be hit in."""

        half_size: int = HALF
        threshold: float = 0.8
        size: int = CANVAS

        def model_post_init(self, context: Any, /) -> None:
            """Refuse what has no meaning."""
            if not 0 < self.threshold <= 1 or self.half_size < 0 or self.size < 1:
                raise ValueError("threshold lies in (0, 1], half_size is 0 or more, size is 1 or more")

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        self._pairs = Pairs(prototypes.classes)
        device, shape = prototypes.classes.device, (len(self._pairs), len(samples.parts))
        self._hits = torch.zeros(shape, dtype=torch.long, device=device)
        self._visible = torch.zeros(shape, dtype=torch.long, device=device)
        self._images = torch.zeros(len(self._pairs), dtype=torch.long, device=device)
        self._rows: list[Tensor] = []

    def update(self, seen: Observation) -> None:
        """Count the hits of one batch."""
        if not len(self._pairs):
            return
        found = own_hits(seen, self.config.half_size, self.config.size)
        pair = self._pairs.rows(found.prototype, found.label)
        # Counts are whole numbers, so neither the order nor the size of batches can matter.
        self._hits.index_add_(0, pair, found.hits.long().to(pair.device))
        self._visible.index_add_(0, pair, found.visible.long().to(pair.device))
        self._images.index_add_(0, pair, torch.ones_like(pair))
        where = torch.stack((seen.index[found.image], found.prototype, found.label), 1)
        self._rows.append(torch.cat((where, found.peaks), 1))

    def compute(self) -> Score:
        """The percentage over all pairs."""
        self._pairs.require()
        passed = consistent(self._hits, self._visible, self.config.threshold)
        rates = torch.where(self._visible > 0, self._hits.double() / self._visible.clamp(min=1), -1.0)
        # Where the annotation has no parts at all, there is still a column to take the maximum over.
        best = torch.cat((rates, rates.new_full((len(rates), 1), -1.0)), 1).max(1)
        seen_any = best.values >= 0
        prototype = {
            "prototype": self._pairs.prototype,
            "class": self._pairs.label,
            "consistent": passed.long(),
            "best_part": torch.where(seen_any, best.indices, -1),
            "best_rate": best.values.clamp(min=0),
            "images": self._images,
        }
        return Score(
            value=100 * int(passed.sum()) / len(self._pairs),
            n=len(self._pairs),
            items={
                "prototype": {name: column.cpu().numpy() for name, column in prototype.items()},
                "image": columns(self._rows, ("index", "prototype", "class", "row", "column"), keys=2),
            },
        )
