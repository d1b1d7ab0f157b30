"""Localisation of the class map in the object's box: the pointing game and related scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contract import Aggregate, NotApplicable, Observation, PrototypeTable, Samples, Score, share
from metrics.parts import class_map, has_prototypes
from metrics.peaks import peaks
from metrics.tables import ImageMetric


def inside(boxes: Tensor, height: int, width: int, side: int) -> Tensor:
    """Compute the share of each cell's area that is in a box.

    Args:
        boxes: ``(N, 4)`` top, left, bottom, right in pixels.
        height: rows of cells.
        width: columns of cells.
        side: side of the square image in pixels.

    Returns:
        ``(N, height, width)``.

    Example:
        >>> inside(torch.tensor([[0.0, 0.0, 5.0, 10.0]]), 2, 2, 20).tolist()
        [[[0.5, 0.0], [0.0, 0.0]]]
    """

    def along(low: Tensor, high: Tensor, count: int) -> Tensor:
        edges = torch.arange(count + 1, device=boxes.device, dtype=boxes.dtype) * side / count
        overlap = torch.minimum(high[:, None], edges[1:]) - torch.maximum(low[:, None], edges[:-1])
        return overlap.clamp(min=0) * count / side

    return along(boxes[:, 0], boxes[:, 2], height)[:, :, None] * along(boxes[:, 1], boxes[:, 3], width)[:, None]


class PointingBox(ImageMetric):
    """Share of test images in which the map of the true class peaks in the object's box (the pointing game).

    The class map is the mean of the maps of its prototypes (:func:`metrics.parts.mean_map`); version 2 took the map of
    the logit, in which prototypes of other classes count with negative weights. ``energy``: share of the map's positive
    sum that is in the box, cells counted by their area in it. ``outside``: mean positive value outside over that
    inside, of all images together whose box leaves something outside (after the outside-inside relevance ratio OIRR,
    with boxes). ``area``: the box's share of the image, the chance level of the value. Sources: Zhang et al., IJCV
    2018, for the pointing game; Wang et al., Score-CAM, 2020, for the energy. Images cut to the box have nothing
    outside: not applicable.

    Table of the score: ``image``.
    """

    name = "pointing_box"
    version = "3"
    needs = frozenset({"image", "label", "bbox"})

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""

        def both(table: Mapping[str, Any]) -> Any:
            return np.column_stack((table["outside"], table["inside"]))

        return {
            "": share("image", "hit", "index"),
            "energy": share("image", "energy", "index", higher_is_better=True),
            "area": share("image", "area", "index"),
            "outside": Aggregate(
                "image",
                both,
                "index",
                weight="both",
                combine=lambda means: means[..., 0] / means[..., 1],
                higher_is_better=False,
            ),
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        if not samples.protocol.startswith("full"):
            raise NotApplicable("images are cut to the box, so nothing is outside: set protocol.crop=full")

    def update(self, seen: Observation) -> None:
        """Compare the maps of one batch with the boxes."""
        boxes = seen.boxes.double()
        kept = boxes.isfinite().all(1) & has_prototypes(seen)
        maps, side = class_map(seen).double(), seen.size
        row, column = peaks(maps.nan_to_num()[:, None], side, require=seen.require)[:, 0].double().T
        # A pixel is in the box if its middle is.
        hit = (row + 0.5 > boxes[:, 0]) & (row + 0.5 < boxes[:, 2]) & (column + 0.5 > boxes[:, 1])
        hit &= column + 0.5 < boxes[:, 3]
        share, high = inside(boxes, *maps.shape[1:], side), maps.clamp(min=0)
        total = high.sum((1, 2))
        # Score-CAM's energy; a cell on the box's border counts by its area inside.
        within = (high * share).sum((1, 2))
        area, cells = share.mean((1, 2)), maps.shape[1:].numel()
        # A box that fills the image leaves nothing outside to compare with; of an empty one nothing is inside.
        both = (area > 1e-9) & (area < 1 - 1e-9)
        self._rows.add(
            kept,
            index=seen.index,
            label=seen.labels,
            hit=hit.long(),
            # A map without a positive cell has no energy anywhere.
            energy=within / total.clamp(min=1e-300),
            both=both.long(),
            inside=torch.where(both, within / (area * cells), 0.0),
            outside=torch.where(both, (high * (1 - share)).sum((1, 2)) / ((1 - area) * cells), 0.0),
            area=area,
        )

    def compute(self) -> Score:
        """Return the percentage over all images with a box."""
        table = self._rows.arrays()
        numbers = self.means(table)
        if table["inside"].sum() > 0:
            numbers["outside"] = float(table["outside"].sum() / table["inside"].sum())
        return Score(numbers.pop(""), len(table["index"]), {"image": table}, numbers)
