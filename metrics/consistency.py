"""Consistency of the part that a prototype hits over the images of its class (Huang et al., ICCV 2023; variants)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from bench.contract import (
    Aggregate,
    Metric,
    NotApplicable,
    Observation,
    PrototypeTable,
    Samples,
    Score,
    Settings,
    share,
)
from metrics.parts import HALF, HitCounts, PositiveShare, Region, Units, arrays, best_part, class_hits, merge_sides
from metrics.peaks import CANVAS


def consistent(hits: Tensor, visible: Tensor, threshold: float = 0.8) -> Tensor:
    """Check if some part is hit in at least ``threshold`` of the images that show it.

    Source: Huang et al., ICCV 2023; ``util/eval_interpretability.py`` of hqhQAQ/EvalProtoPNet.

    Args:
        hits: int64 ``(..., parts)``, number of images in which the part was hit.
        visible: int64 ``(..., parts)``, number of images in which it is visible; a part that never is does not count.
        threshold: between 0 and 1, as a decimal number: 4 hits of 5 reach 0.8.

    Returns:
        bool ``(...)``.

    Example:
        >>> import torch
        >>> consistent(torch.tensor([[4, 1], [3, 0]]), torch.tensor([[5, 9], [4, 0]])).tolist()
        [True, False]
    """
    return reached(hits, visible, threshold).any(-1)


def reached(hits: Tensor, visible: Tensor, threshold: float) -> Tensor:
    """Return if each part is hit in at least that share of the images that show it: bool, of the counts' shape."""
    # In whole numbers: the float nearest to 0.8 is above it, and products with it round either way.
    limit = Fraction(str(threshold)).limit_denominator(10**6)
    # As in the official code there is no minimum of visible images: a part that is shown once may decide.
    return (limit.denominator * hits >= limit.numerator * visible) & (visible > 0)


def require_whole_images(samples: Samples, variant: str) -> None:
    """Refuse images cut to a box if a variant is defined on whole ones.

    Raises:
        NotApplicable: if they are cut.
    """
    if variant in ("protopformer", "pixpnet") and not samples.protocol.startswith("full"):
        raise NotApplicable(
            f"{variant} is defined on whole images, these are {samples.protocol}: set protocol.crop=full"
        )


class Consistency(Metric):
    """Share of (prototype, class) pairs that hit one and the same part in >= 80 % of the class's images.

    A pair whose class has no test image, or never shows a part, is not consistent (the published 0/1 rule). Source:
    Huang et al., ICCV 2023; ``util/eval_interpretability.py`` of hqhQAQ/EvalProtoPNet.

    Variants: ``v2`` and ``v1`` are the two official versions, equal here. ``protopformer`` (zju-vipa/ProtoPFormer) is
    the same on whole images. ``pixpnet`` (merlresearch/PixPNet), on whole images too, counts left and right as one
    part, takes the centre of the highest cell for the peak and boxes of one pixel for parts, and calls a prototype
    inconsistent if its class never shows some part; its ``soft`` score is the mean of the highest rates of the others.

    Tables of the score: ``prototype`` (one row per unit: ``best_part`` is -1 if no part is ever visible) and
    ``image`` (one row per image and prototype of its class: row and column of the peak).
    """

    name = "consistency"
    version = "1"
    needs = frozenset({"image", "label", "keypoints"})

    class Config(Settings):
        """Definition of the metric.

        Attributes:
            variant: published version.
            half_size: the region's half side in pixels.
            threshold: share of the images in which a part must be hit.
            size: the canvas' side in pixels.
            pooled: score a shared prototype over all its classes together instead of in each of them.
        """

        variant: Literal["v2", "v1", "protopformer", "pixpnet"] = "v2"
        half_size: NonNegativeInt = HALF
        threshold: PositiveShare = 0.8
        size: PositiveInt = CANVAS
        pooled: bool = False

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        unit = "prototype" if config.pooled else "class"
        return {
            "": share("prototype", "consistent", unit),
            "soft": "which prototypes it is about is not in its table",
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        require_whole_images(samples, config.variant)
        self._region = region_of(config, samples)
        parts = max(self._region.merged, default=-1) + 1 if self._region.merged else len(samples.parts)
        self._hits = HitCounts(Units(prototypes.classes, config.pooled), parts)

    def update(self, seen: Observation) -> None:
        """Count the hits of one batch."""
        if len(self._hits.units):
            self._hits.add(class_hits(seen, self._region), seen.index)

    @property
    def counted_parts(self) -> Sequence[str]:
        """Names of the parts that are counted; without the side if sides are merged."""
        merged, parts = self._region.merged, self.samples.parts
        if not merged:
            return parts
        first = [parts[merged.index(number)] for number in sorted(set(merged))]
        return [part.removeprefix("left ").removeprefix("right ") for part in first]

    # With `rates`, `counted_parts` and the tables of its score, any metric can be drawn on images.
    def rates(self) -> Tensor:
        """Return the share of the images showing a part in which a unit hit it: ``(units, parts)``, -1 if none does."""
        return self._hits.rates()

    def compute(self) -> Score:
        """Return the percentage over all units."""
        self._hits.units.require()
        passed = consistent(self._hits.hits, self._hits.visible, self.config.threshold)
        part, rate = best_part(self._hits.rates())
        also = {}
        # Of the published versions only PixPNet's has a soft score.
        if self.config.variant == "pixpnet":
            # PixPNet's rate of a part that is never visible is 0/0, and torch.max over parts propagates the NaN.
            defined = (self._hits.visible > 0).all(1)
            passed &= defined
            if defined.any():
                also["soft"] = 100 * float(rate[defined].mean())
        prototype = {
            **self._hits.units.columns(),
            "consistent": passed.long(),
            "best_part": part,
            "best_rate": rate,
            "images": self._hits.images,
        }
        return Score(
            value=100 * int(passed.sum()) / len(passed),
            n=len(passed),
            items={"prototype": arrays(prototype), "image": self._hits.image_table()},
            also=also,
        )


def region_of(config: Any, samples: Samples) -> Region:
    """Return the region around a peak in which a variant counts parts."""
    pixpnet = config.variant == "pixpnet"
    return Region(config.half_size, config.size, pixpnet, merge_sides(samples.parts) if pixpnet else ())
