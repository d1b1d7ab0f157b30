"""Scores of the class map against the object's mask: energy, intersection over union, OIRR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import NonNegativeInt

from bench.contract import Aggregate, NotApplicable, Observation, Score, Settings, share
from metrics import masks
from metrics.parts import PositiveShare, class_map, has_prototypes
from metrics.peaks import peaks
from metrics.tables import ImageMetric

_EMPTY = "no test image has prototypes of its class, and pixels of the object and others"


class MaskEnergy(ImageMetric):
    """Share of the class map's positive sum that is on the object, mean over images.

    The class map is the mean of the maps of the true class's prototypes, enlarged bicubically; the energy of one
    without a positive pixel is 0. Version 1 took the map of the logit, in which prototypes of other classes count with
    negative weights. ``pointing``: share of images in which the map peaks on the object (the pointing game); ``area``:
    the object's share of the image, which a uniform map and a uniform place have. Without masks the box is the object,
    and ``boxes`` is 100. Sources: Wang et al., Score-CAM, 2020, for the energy, with boxes; Zhang et al., IJCV 2018,
    for the pointing game.

    Table of the score: ``image``.
    """

    name = "mask_energy"
    version = "2"
    needs = frozenset({"image", "label", "mask"})
    empty = _EMPTY
    requires = ("objects",)

    class Config(Settings):
        """Grey level of a mask above which a pixel is the object."""

        grey: NonNegativeInt = masks.GREY

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        pointing = share("image", "pointing", "index", higher_is_better=True)
        return {"": share("image", "energy", "index"), "pointing": pointing, **masks.described_aggregates()}

    def update(self, seen: Observation) -> None:
        """Compare the maps of one batch with the objects."""
        inside, positive = masks.objects(seen, self.config.grey), masks.class_pixels(seen).clamp(min=0)
        row, column = peaks(class_map(seen).nan_to_num()[:, None], seen.size, require=seen.require)[:, 0].T
        self._rows.add(
            masks.measurable(inside) & has_prototypes(seen),
            **masks.described(seen, inside),
            # Score-CAM (2020), energy-based pointing game: positive sum on the object over all of it.
            energy=(positive * inside).sum((1, 2)) / positive.sum((1, 2)).clamp(min=1e-300),
            pointing=inside[torch.arange(len(row), device=row.device), row, column].long(),
        )


class MaskIou(ImageMetric):
    """Intersection over union of the object and the class map's high region, mean over images.

    The class map is that of :class:`MaskEnergy`. The high region are the pixels that reach half of the way from the
    map's minimum to its maximum. ``at_25`` and ``at_75``: at a quarter and at three quarters of the way.
    ``background``: share of the high region beside the object. ``area`` and ``boxes`` as in :class:`MaskEnergy`;
    ``area`` is also the score of a region that is the whole image. Source: ``full/interpretability.py`` of
    cwangrun/ST-ProtoPNet (Wang et al., ICCV 2023).

    Table of the score: ``image``.
    """

    name = "mask_iou"
    version = "2"
    needs = frozenset({"image", "label", "mask"})
    empty = _EMPTY
    requires = ("objects",)
    others: ClassVar[Mapping[str, float]] = {"at_25": 0.25, "at_75": 0.75}

    class Config(Settings):
        """Share of the way from a map's minimum to its maximum; grey level above which a mask's pixel is the object."""

        threshold: PositiveShare = 0.5
        grey: NonNegativeInt = masks.GREY

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        return {
            "": share("image", "iou", "index"),
            **{name: share("image", name, "index", higher_is_better=True) for name in cls.others},
            "background": share("image", "background", "index", higher_is_better=False),
            **masks.described_aggregates(),
        }

    def update(self, seen: Observation) -> None:
        """Compare the maps of one batch with the objects."""
        inside, pixels = masks.objects(seen, self.config.grey), masks.class_pixels(seen)
        # Half of the way up after min-max, as in `full/interpretability.py` of ST-ProtoPNet.
        region = masks.high(pixels, self.config.threshold)
        self._rows.add(
            masks.measurable(inside) & has_prototypes(seen),
            **masks.described(seen, inside),
            iou=masks.iou(region, inside),
            # A constant map has no high region, and nothing of it is beside the object.
            background=(region & ~inside).sum((1, 2)).double() / region.sum((1, 2)).clamp(min=1),
            **{name: masks.iou(masks.high(pixels, share), inside) for name, share in self.others.items()},
        )


class MaskOirr(ImageMetric):
    """Outside-inside relevance ratio: mean of the class map outside the object over that on it, less is better.

    The class map, that of :class:`MaskEnergy`, is stretched from 0 to 1 in each image, as published; a map that ignores
    the object has 1. The ratio is one of means over all images: that of a single image is boundless where nothing is
    high on the object. ``heat``: the mean on the object (the content heatmap CH). Source: ``full/interpretability.py``
    of cwangrun/ST-ProtoPNet (Wang et al., ICCV 2023), which averages the images' ratios.

    Table of the score: ``image``.
    """

    name = "mask_oirr"
    version = "2"
    unit = "ratio"
    higher_is_better = False
    needs = frozenset({"image", "label", "mask"})
    empty = _EMPTY
    requires = ("objects",)

    class Config(Settings):
        """Grey level of a mask above which a pixel is the object."""

        grey: NonNegativeInt = masks.GREY

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the ratio of means that the value is, and the means that the others are."""

        def both(table: Mapping[str, Any]) -> Any:
            return np.column_stack((table["outside"], table["inside"]))

        ratio = Aggregate("image", both, "index", combine=lambda means: means[..., 0] / means[..., 1])
        heat = share("image", "inside", "index", higher_is_better=True)
        return {"": ratio, "heat": heat, **masks.described_aggregates()}

    def update(self, seen: Observation) -> None:
        """Compare the maps of one batch with the objects."""
        inside, pixels = masks.objects(seen, self.config.grey), masks.class_pixels(seen)
        # Stretched from 0 to 1, as in `full/interpretability.py` of ST-ProtoPNet.
        pixels = pixels - pixels.amin((1, 2), keepdim=True)
        # A constant map is 0 everywhere.
        pixels = pixels / pixels.amax((1, 2), keepdim=True).clamp(min=1e-300)
        self._rows.add(
            masks.measurable(inside) & has_prototypes(seen),
            **masks.described(seen, inside),
            inside=masks.mean_of(pixels, inside),
            outside=masks.mean_of(pixels, ~inside),
        )

    def compute(self) -> Score:
        """Return the ratio over all images.

        Raises:
            NotApplicable: if nothing is shown on any object.
        """
        table = self._rows.arrays()
        if not table["inside"].sum() > 0:
            raise NotApplicable("no map is high anywhere on an object, so there is nothing to divide by")
        # A ratio of means: the published mean of ratios has no bound where little is high on the object.
        ratio = float(table["outside"].sum() / table["inside"].sum())
        return Score(ratio, len(table["index"]), {"image": table}, self.means(table))
