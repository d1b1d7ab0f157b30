"""Comprehensiveness: how well a class's prototypes together cover the object (Zhu et al., CVPR 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from bench.contract import Aggregate, Observation, Settings, share
from metrics.distinctiveness import highest_slots, pooled, stretched
from metrics.masks import GREY, described, described_aggregates, high, iou, measurable, objects, on_pixels
from metrics.parts import PositiveShare, class_maps
from metrics.tables import ImageMetric

# Bytes of enlarged maps at a time: of float64, with two masks and the copies that making them takes.
_BUDGET = {"cpu": 2**26, "cuda": 2**30}


def union(maps: Tensor, real: Tensor, side: int, threshold: float, official: bool = False) -> Tensor:
    """Return the pixels that some map of an image reaches.

    Args:
        maps: ``(N, K, h, w)``.
        real: bool ``(N, K)``, false for padding.
        side: side of the image in pixels.
        threshold: share of the way from a map's minimum to its maximum.
        official: enlarge bilinearly instead of bicubically.

    Returns:
        bool ``(N, side, side)``.
    """
    reached = torch.zeros(len(maps), side, side, dtype=torch.bool, device=maps.device)
    # Never all maps at once: those of a thousand prototypes of one image are 400 MB of pixels.
    # Bilinear interpolation in its deterministic form has eight numbers of a pixel on a GPU.
    pixel = 64 if official and maps.is_cuda else 32
    step = max(1, _BUDGET.get(maps.device.type, _BUDGET["cpu"]) // (pixel * side * side * max(1, len(maps))))
    for some, kept in zip(maps.split(step, 1), real.split(step, 1), strict=True):
        pixels = stretched(some, side) if official else on_pixels(some.flatten(0, 1), side).unflatten(0, some.shape[:2])
        reached |= (high(pixels, threshold) & kept[..., None, None]).any(1)
    return reached


class Comprehensiveness(ImageMetric):
    """Intersection over union of the object and all high regions of a class's prototypes together, mean over images.

    A map's high region are the pixels that reach 60 % of the way from its minimum to its maximum. ``covered``: share of
    the object in them; ``area``: the object's share of the image, the score of a map that is high everywhere. Without
    masks the box is the object, and ``boxes`` is 100. Source: Zhu et al., CVPR 2025; ``eval/comprehensiveness.py`` of
    zijizhu/proto-non-param. Variant ``official`` is that code: the five maps with the highest maxima, pooled 2 x 2 and
    enlarged bilinearly.

    Table of the score: ``image``.
    """

    name = "comprehensiveness"
    version = "1"
    needs = frozenset({"image", "label", "mask"})
    empty = "no test image has prototypes of its class, and pixels of the object and others"
    requires = ("objects", "prototypes")

    class Config(Settings):
        """Definition of the metric.

        Attributes:
            variant: ``full`` resolution, or the ``official`` code.
            top: prototypes of an image that count, from the highest maximum; ``None``: all of its class.
            threshold: share of the way from a map's minimum to its maximum.
            grey: grey level of a mask above which a pixel is the object.
        """

        variant: Literal["full", "official"] = "full"
        top: PositiveInt | None = None
        threshold: PositiveShare = 0.6
        grey: NonNegativeInt = GREY

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        return {
            "": share("image", "iou", "index"),
            "covered": share("image", "covered", "index", higher_is_better=True),
            **described_aggregates(),
        }

    def update(self, seen: Observation) -> None:
        """Compare the maps of one batch with the objects."""
        indices, maps, _ = class_maps(seen)
        inside, official = objects(seen, self.config.grey), self.config.variant == "official"
        real = indices >= 0
        if self.config.top is not None:
            slots, real = highest_slots(indices, maps, self.config.top)
            maps = maps.gather(1, slots[..., None, None].expand(*slots.shape, *maps.shape[2:]))
        reached = union(pooled(maps) if official else maps, real, seen.size, self.config.threshold, official)
        self._rows.add(
            measurable(inside) & real.any(1),
            **described(seen, inside),
            # Of the union of all maps, so that a part found twice counts once (`eval/comprehensiveness.py`).
            iou=iou(reached, inside),
            covered=(reached & inside).sum((1, 2)).double() / inside.sum((1, 2)),
        )
