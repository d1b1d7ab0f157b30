"""Does the prediction fall when what is shown is taken away? (Petsiuk et al., RISE, BMVC 2018.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from bench.contract import Aggregate, CellError, Metric, Observation, PrototypeTable, Samples, Score, Settings
from metrics.feature_sampling import spread
from metrics.tables import Table


def curve(ranks: Tensor, images: Tensor, steps: int, insert: bool) -> Tensor:
    """An image at every step of taking cells away in their order (or of putting them back).

    Args:
        ranks: int64 ``(h, w)``, 0 for the cell that goes (or comes) first.
        images: ``(3, H, W)``; what is away is 0, the mean colour of a normalised image.
        steps: how many steps it takes until all cells have gone.
        insert: put back instead of taking away.

    Returns:
        ``(steps + 1, 3, H, W)``.
    """
    height, width = ranks.shape
    rows, columns = (
        torch.arange(side, device=ranks.device) * cells // side
        for side, cells in zip(images.shape[1:], (height, width), strict=True)
    )
    pixel_ranks = ranks[rows][:, columns]
    # After step s, the first ceil(s cells / steps) cells have gone.
    gone = (torch.arange(steps + 1, device=ranks.device) * ranks.numel() + steps - 1) // steps
    touched = pixel_ranks[None] < gone[:, None, None]
    return images[None] * (touched if insert else ~touched)[:, None]


class Deletion(Metric):
    """How much faster the predicted class's probability falls in the order of its displayed map than in a random one.

    Cells go from the highest to the lowest, in equal steps, 0 (the mean colour) in their place. The area under the
    probability, by the trapezoid rule, in percent: ``random`` for a random order minus ``area`` for the map's. With
    mode ``insert`` cells are put back into an empty image, and it is ``area`` minus ``random``. On a number of evenly
    spread images. Table of the score: ``image``.
    """

    name = "deletion"
    version = "1"
    needs = frozenset({"image", "label", "prediction"})

    class Config(Settings):
        """How the curve is made.

        Attributes:
            mode: take away, or put back.
            images: at most so many test images, evenly spread.
            steps: of the curve.
            seed: of the random order.
        """

        mode: Literal["delete", "insert"] = "delete"
        images: PositiveInt = 64
        steps: PositiveInt = 14
        seed: NonNegativeInt = 0

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """What the numbers are means of."""
        sign = 1 if config.mode == "insert" else -1
        return {
            "": Aggregate("image", lambda table: sign * (table["area"] - table["random"]), "index"),
            "area": Aggregate("image", "area", "index", limits=(0.0, 100.0), higher_is_better=sign > 0),
            "random": Aggregate("image", "random", "index", limits=(0.0, 100.0)),
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        self._chosen, self._rows = spread(len(samples), config.images), Table("index")

    def update(self, seen: Observation) -> None:
        """Draw the curves of some images of one batch."""
        own = torch.isin(seen.index, self._chosen.to(seen.index.device)).nonzero()[:, 0]
        if not len(own):
            return
        prediction = seen.own.logits[own].argmax(1)
        shown = seen.model.attribute(seen.features[own], prediction)
        if not shown.isfinite().all():
            raise CellError("a displayed map holds NaN or infinite values: look for a division by zero in the method")
        areas = []
        for place, image in enumerate(own.tolist()):
            generator = np.random.default_rng((self.config.seed, int(seen.index[image])))
            by_map = shown[place].flatten().argsort(descending=True, stable=True)
            by_chance = torch.from_numpy(generator.permutation(by_map.numel())).to(by_map.device)
            for order in (by_map, by_chance):
                ranks = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
                pictures = curve(
                    ranks.view(shown.shape[1:]), seen.images[image], self.config.steps, self.config.mode == "insert"
                )
                probability = seen.model(pictures).double().softmax(1)[:, prediction[place]]
                areas.append(100 * torch.trapezoid(probability) / self.config.steps)
        area = torch.stack(areas).view(-1, 2)
        self._rows.add(index=seen.index[own], prediction=prediction, area=area[:, 0], random=area[:, 1])

    def compute(self) -> Score:
        """The mean over the images."""
        table = self._rows.arrays()
        also = {name: float(table[name].mean()) for name in ("area", "random")}
        gain = also["area"] - also["random"] if self.config.mode == "insert" else also["random"] - also["area"]
        return Score(gain, len(table["index"]), {"image": table}, also)
