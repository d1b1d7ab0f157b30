"""Deletion and insertion curves (Petsiuk et al., RISE, BMVC 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from bench.contract import (
    IMAGENET_MEAN,
    Aggregate,
    CellError,
    Observation,
    PartPrototypeModel,
    PrototypeTable,
    Samples,
    Score,
    Settings,
)
from bench.core.memory import to_device
from metrics.feature_sampling import chosen_rows
from metrics.parts import mean_map, of_classes
from metrics.tables import ImageMetric


def curve(ranks: Tensor, images: Tensor, steps: int, insert: bool, colour: Tensor | float = 0.0) -> Tensor:
    """Return an image at every step of removing cells in their order (or of putting them back).

    Args:
        ranks: int64 ``(h, w)``, 0 for the cell that is removed (or put back) first.
        images: ``(3, H, W)``.
        steps: number of steps until all cells are removed.
        insert: put back instead of removing.
        colour: of removed pixels, ``(3, 1, 1)`` or the same number in all channels; 0 is the mean colour.

    Returns:
        ``(steps + 1, 3, H, W)``.
    """
    height, width = ranks.shape
    rows, columns = (
        torch.arange(side, device=ranks.device) * cells // side
        for side, cells in zip(images.shape[1:], (height, width), strict=True)
    )
    pixel_ranks = ranks[rows][:, columns]
    # After step s, the first ceil(s cells / steps) cells are changed.
    changed = (torch.arange(steps + 1, device=ranks.device) * ranks.numel() + steps - 1) // steps
    touched = pixel_ranks[None] < changed[:, None, None]
    return torch.where((touched if insert else ~touched)[:, None], images[None], colour)


class Deletion(ImageMetric):
    """Area under the predicted class's probability while cells are removed: random order minus that of its map.

    The map is the class map, the mean of the maps of the class's prototypes (:func:`metrics.parts.mean_map`), as in the
    deletion curve of ST-ProtoPNet; version 1 took the map of the logit, in which prototypes of other classes count.
    Cells are replaced by ImageNet's mean colour (0 in images normalised with ImageNet's mean, and the same colour for
    backbones with another) from the highest to the lowest, in equal steps. The area under the probability, by the
    trapezoid rule, in percent: ``random`` for a random order minus ``area`` for the map's. With mode ``insert`` cells
    are put back into an empty image, and it is ``area`` minus ``random``. On a number of evenly spread images.

    Table of the score: ``image``.
    """

    name = "deletion"
    version = "2"
    needs = frozenset({"image", "label", "prediction"})
    changes_images = True

    class Config(Settings):
        """Settings of the curve.

        Attributes:
            mode: remove cells, or put them back.
            images: largest number of test images, evenly spread.
            steps: number of steps of the curve.
            seed: of the random order.
        """

        mode: Literal["delete", "insert"] = "delete"
        images: PositiveInt = 64
        steps: PositiveInt = 14
        seed: NonNegativeInt = 0

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """Return the means that the numbers are."""
        sign = 1 if config.mode == "insert" else -1
        return {
            "": Aggregate("image", lambda table: sign * (table["area"] - table["random"]), "index"),
            "area": Aggregate("image", "area", "index", limits=(0.0, 100.0), higher_is_better=sign > 0),
            "random": Aggregate("image", "random", "index", limits=(0.0, 100.0)),
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        mean, own, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, samples.mean, samples.std))
        self._colour = (mean - own) / std

    def update(self, seen: Observation) -> None:
        """Compute the curves of some images of one batch."""
        rows = chosen_rows(seen, self.samples, self.config.images)
        if not len(rows):
            return
        index, rows = seen.positions[rows], to_device(rows, seen.images.device)
        prediction = seen.own.logits[rows].argmax(1)
        explanation = seen.model.head(seen.features[rows], prediction)
        indices, maps, _ = of_classes(seen.model, explanation, prediction)
        shown = mean_map(indices, maps)
        seen.require(
            shown.isfinite().flatten(1).all(1),
            lambda broken: CellError("a class map holds NaN or infinite values: look for a division by zero"),
        )
        # Stable: equal values go in row-major order.
        by_map = shown.flatten(1).argsort(dim=1, descending=True, stable=True)
        # Seeded by the position in the split: an image's random order is the same in any batch.
        generators = [np.random.default_rng((self.config.seed, position)) for position in index.tolist()]
        drawn = np.stack([generator.permutation(by_map.shape[1]) for generator in generators])
        orders = torch.stack((by_map, to_device(torch.from_numpy(drawn), by_map.device)), 1).flatten(0, 1)
        places = torch.arange(orders.shape[1], device=orders.device).expand_as(orders)
        ranks = torch.empty_like(orders).scatter_(1, orders, places).unflatten(1, shown.shape[1:])
        self._colour, areas = to_device(self._colour, ranks.device), []  # copied once
        # A CPU works faster image by image; a GPU on as many pictures at once as there was memory for images.
        curves = max(1, len(seen.images) // (self.config.steps + 1)) if ranks.is_cuda else 1
        for some in torch.arange(len(ranks), device=ranks.device).split(curves):
            areas.append(self._areas(seen.model, ranks[some], seen.images[rows[some // 2]], prediction[some // 2]))
        area = torch.cat(areas).view(-1, 2)
        self._rows.add(index=index, prediction=prediction, area=area[:, 0], random=area[:, 1])

    def _areas(self, model: PartPrototypeModel, ranks: Tensor, images: Tensor, prediction: Tensor) -> Tensor:
        """Return the area below each curve ``(n,)`` in percent, of n orders of cells."""
        insert, colour = self.config.mode == "insert", self._colour.to(images.dtype)
        pictures = [curve(*pair, self.config.steps, insert, colour) for pair in zip(ranks, images, strict=True)]
        probability = model(torch.cat(pictures)).double().softmax(1).unflatten(0, (len(ranks), -1))
        chosen = probability.gather(2, prediction[:, None, None].expand(-1, probability.shape[1], 1))[:, :, 0]
        # The trapezoid rule over equal steps, as RISE's area; 1 is a probability of 1 at every step.
        return 100 * torch.trapezoid(chosen) / self.config.steps

    def compute(self) -> Score:
        """Return the mean over the images."""
        table = self._rows.arrays()
        also = {name: float(table[name].mean()) for name in ("area", "random")}
        # The advantage over chance, which is ours: RISE reports the area alone.
        gain = also["area"] - also["random"] if self.config.mode == "insert" else also["random"] - also["area"]
        return Score(gain, len(table["index"]), {"image": table}, also)
