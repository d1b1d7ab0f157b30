"""Distinctiveness: how little the regions of a class's prototypes overlap (Zhu et al., ProtoNonParam, CVPR 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional

from bench.contract import Aggregate, NotApplicable, Observation, Settings, share
from metrics.parts import HALF, class_maps, class_peaks
from metrics.peaks import CANVAS
from metrics.tables import ImageMetric

# Bytes of enlarged maps at a time.
_BUDGET = {"cpu": 2**25, "cuda": 2**28}


def overlap(peaks: Tensor, half: int = HALF, size: int | None = CANVAS) -> Tensor:
    """Compute the intersection over union of the boxes around each two peaks.

    Args:
        peaks: ``(N, K, 2)`` row and column in pixels.
        half: half the side of a box.
        size: side of the canvas at which boxes end; ``None``: they do not end.

    Returns:
        float64 ``(N, K, K)``, 1 on the diagonal.

    Example:
        >>> overlap(torch.tensor([[[100, 100], [100, 136]]]))[0, 0].tolist()
        [1.0, 0.3333333333333333]
    """
    low, high = peaks.double() - half, peaks.double() + half
    if size is not None:
        low, high = low.clamp(min=0), high.clamp(max=size)
    sides = torch.minimum(high[:, :, None], high[:, None]) - torch.maximum(low[:, :, None], low[:, None])
    # Sides that do not overlap are negative, and two of them would have a positive product.
    shared, area = sides.clamp(min=0).prod(3), (high - low).prod(2)
    return shared / (area[:, :, None] + area[:, None] - shared)


def highest_slots(indices: Tensor, maps: Tensor, top: int | None) -> tuple[Tensor, Tensor]:
    """Choose the maps of each image with the highest maxima; of equal ones the first.

    Args:
        indices: ``(N, K)`` prototypes, -1 for padding.
        maps: ``(N, K, h, w)``.
        top: how many; ``None``: all.

    Returns:
        Numbers of the maps ``(N, M)``, and whether each is one of a prototype: bool ``(N, M)``.
    """
    # Padding is last, below every map.
    height = torch.where(indices >= 0, maps.amax((2, 3)), -torch.inf)
    slots = height.sort(dim=1, descending=True, stable=True).indices[:, :top]
    return slots, indices.gather(1, slots) >= 0


def pooled(maps: Tensor) -> Tensor:
    """Return the means of 2 x 2 cells, as the official code makes them of all maps; an odd last row or column is lost.

    Raises:
        NotApplicable: if a map has one row or column.
    """
    if min(maps.shape[2:]) < 2:
        raise NotApplicable("its maps have less than 2 x 2 cells, which the official code pools")
    return functional.avg_pool2d(maps, 2)


def stretched(maps: Tensor, size: int) -> Tensor:
    """Return maps ``(n, K, h, w)`` enlarged bilinearly, as in the official code: float64 ``(n, K, size, size)``."""
    return functional.interpolate(maps.double(), (size, size), mode="bilinear", align_corners=False)


def _official_peaks(maps: Tensor) -> Tensor:
    """Return the first of the highest pixels of pooled maps ``(N, K, h, w)``: ``(N, K, 2)``."""
    found = []
    # Of a pixel a number in float64 and two masks; bilinear interpolation in its deterministic form has eight on a GPU.
    step = max(1, _BUDGET.get(maps.device.type, _BUDGET["cpu"]) // ((64 if maps.is_cuda else 10) * CANVAS**2))
    for some in pooled(maps).flatten(0, 1).split(step):
        pixels = stretched(some[:, None], CANVAS).flatten(1)
        # Near the border and between equal cells pixels tie; rounding must not choose, as in `metrics.peaks`.
        reached = pixels.amax(1, keepdim=True) - 2.0**-44 * some.abs().amax((1, 2))[:, None]
        found.append((pixels >= reached).to(torch.uint8).argmax(1))
        del pixels  # else it would be there while the next are computed
    pixel = torch.cat(found).unflatten(0, maps.shape[:2])
    return torch.stack((pixel // CANVAS, pixel % CANVAS), 2)


def _of_pairs(peaks: Tensor, real: Tensor, half: int, size: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of pairs of each image, the sum of their overlaps, and how many are at one pixel: ``(n,)``."""
    # Each pair once, and none with padding.
    pairs = (real[:, :, None] & real[:, None]).double().triu(1)
    same = (peaks[:, :, None] == peaks[:, None]).all(3)
    return pairs.sum((1, 2)), (overlap(peaks, half, size) * pairs).sum((1, 2)), (same * pairs).sum((1, 2))


class Distinctiveness(ImageMetric):
    """100 % minus the mean intersection over union of the regions around two prototypes' peaks, mean over images.

    Regions are 72 x 72 pixels, cut off at the image's border, around the peaks of :mod:`metrics.peaks`. Images of a
    class with one prototype are left out. ``same``: share of pairs whose peaks are one pixel. Source: Zhu et al.,
    CVPR 2025; ``eval/distinctiveness.py`` of zijizhu/proto-non-param. Variant ``official`` is that code: the five
    maps with the highest maxima, pooled 2 x 2, enlarged bilinearly, and regions that reach beyond the image.

    Table of the score: ``image``.
    """

    name = "distinctiveness"
    version = "1"
    needs = frozenset({"image", "label"})
    empty = "no test image has a class with two prototypes"

    class Config(Settings):
        """Definition of the metric.

        Attributes:
            variant: ``full`` resolution, or the ``official`` code.
            top: prototypes of an image that count, from the highest maximum; ``None``: all of its class.
            half_size: half the region's side in pixels.
        """

        variant: Literal["full", "official"] = "full"
        top: PositiveInt | None = None
        half_size: NonNegativeInt = HALF

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        return {
            "": share("image", "distinct", "index"),
            "same": share("image", "same", "index", higher_is_better=False),
        }

    def update(self, seen: Observation) -> None:
        """Compare the regions of one batch."""
        indices, maps, _ = class_maps(seen)
        if not maps.numel():
            return
        slots, real = highest_slots(indices, maps, self.config.top)
        if self.config.variant == "official":
            peaks = _official_peaks(maps.gather(1, slots[..., None, None].expand(*slots.shape, *maps.shape[2:])))
        else:
            peaks = class_peaks(seen).gather(1, slots[..., None].expand(-1, -1, 2))
        size = CANVAS if self.config.variant == "full" else None
        # Some images at a time: the 500 nodes of a tree are 250,000 pairs in each.
        step = max(1, 2**20 // peaks.shape[1] ** 2)
        parts = [
            _of_pairs(*some, self.config.half_size, size)
            for some in zip(peaks.split(step), real.split(step), strict=True)
        ]
        count, shared, same = (torch.cat(part) for part in zip(*parts, strict=True))
        self._rows.add(
            count > 0,
            index=seen.index,
            label=seen.labels,
            # 1 - mean intersection over union of the pairs (`eval/distinctiveness.py` of proto-non-param).
            distinct=1 - shared / count,
            same=same / count,
        )
