"""Does a prototype's presence depend on pixels far from where it is shown? (Sacha et al., AAAI 2024.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from bench.contract import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Aggregate,
    Metric,
    NotApplicable,
    Observation,
    PartPrototypeModel,
    PrototypeTable,
    Samples,
    Score,
    Settings,
)
from metrics.feature_sampling import spread
from metrics.parts import class_maps
from metrics.peaks import interpolation_matrix
from metrics.tables import Table


def highest(maps: Tensor, side: int, share: float) -> Tensor:
    """The highest pixels of upsampled maps ``(n, h, w)``, and all that equal the last: bool ``(n, side, side)``."""
    down, across = (interpolation_matrix(cells, side, torch.float64).to(maps.device) for cells in maps.shape[1:])
    pixels = (down @ maps.double() @ across.T).flatten(1)
    count = max(1, round(share * side * side))
    # Rounding must not tell equal pixels apart, least of all those of a constant map.
    limit = pixels.topk(count, dim=1).values[:, -1:] - 1e-12 * pixels.abs().amax(1, keepdim=True)
    return (pixels >= limit).unflatten(1, (side, side))


def outside_of(region: Tensor) -> Tensor:
    """All pixels outside the smallest box around a region: bool ``(n, side, side)``."""
    rows, columns = region.any(2), region.any(1)

    def between(line: Tensor) -> Tensor:
        return (line.cumsum(1) > 0) & (line.flip(1).cumsum(1).flip(1) > 0)

    return ~(between(rows)[:, :, None] & between(columns)[:, None])


def attacked(
    model: PartPrototypeModel, images: Tensor, labels: Tensor, slot: Tensor, allowed: Tensor, config: Any
) -> Tensor:
    """Images changed where it is allowed so that one score falls: projected descent along the gradient's sign.

    Args:
        model: the model.
        images: ``(n, 3, H, W)``, normalised.
        labels: ``(n,)``.
        slot: ``(n,)`` which of the scores of the image's class has to fall.
        allowed: bool ``(n, H, W)``.
        config: ``epsilon`` and ``step`` in units of pixels in [0, 1], and ``iterations``.

    Raises:
        NotApplicable: where scores have no gradient.
    """
    mean, deviation = (
        torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    low = torch.maximum(images - config.epsilon / deviation, -mean / deviation)
    high = torch.minimum(images + config.epsilon / deviation, (1 - mean) / deviation)
    low, high = torch.minimum(low, images), torch.maximum(high, images)  # what is out of range stays where it is
    changed = images.clone()
    for _ in range(config.iterations):
        with torch.enable_grad():
            changed.requires_grad_(True)
            score = model.explain(changed, labels).scores.gather(1, slot[:, None]).sum()
            if not score.requires_grad:
                raise NotApplicable("its scores have no gradient")
            (slope,) = torch.autograd.grad(score, changed)
        moved = changed.detach() - config.step / deviation * slope.sign() * allowed[:, None]
        changed = torch.minimum(torch.maximum(moved, low), high)
    return changed.detach()


class Misalignment(Metric):
    """How far the map of an image's top prototype moves when only pixels outside its high region are changed.

    The true class's prototype with the highest score; its highest 10 % of pixels; the box around them. Pixels outside
    the box are changed by at most 0.1 (in [0, 1]) so that the score falls, in 20 steps of 0.01. The value is 100 (1 -
    intersection over union) of the highest 10 % before and after (PLC). ``activation``: by how many percent of its
    magnitude the score falls (PAC). ``rank``: how many prototypes of other classes rise above it (PRC). On a number of
    evenly spread images. Source: spec/metrics.md, section 9; the box of the highest pixels is our reading. Table:
    ``image``.
    """

    name = "misalignment"
    version = "1"
    higher_is_better = False
    needs = frozenset({"image", "label", "prediction", "gradient"})

    class Config(Settings):
        """The attack.

        Attributes:
            images: at most so many test images, evenly spread.
            share: of the pixels that are a map's high region.
            epsilon: largest change of a pixel in [0, 1].
            step: of one iteration.
            iterations: of the attack.
        """

        images: PositiveInt = 32
        share: PositiveFloat = 0.1
        epsilon: PositiveFloat = 0.1
        step: PositiveFloat = 0.01
        iterations: PositiveInt = 20

    @classmethod
    def aggregates(cls, config: Any) -> Mapping[str, Aggregate | str]:
        """What the numbers are means of."""
        return {
            "": Aggregate("image", "location", "index", limits=(0.0, 100.0)),
            "activation": Aggregate("image", "activation", "index", higher_is_better=False),
            "rank": Aggregate("image", "rank", "index", higher_is_better=False),
        }

    def __init__(self, config: Any, samples: Samples, prototypes: PrototypeTable) -> None:
        super().__init__(config, samples, prototypes)
        if not prototypes.classes.any():
            raise NotApplicable("the model has no prototype that speaks for a class, so there is nothing to attack")
        self._chosen, self._rows = spread(len(samples), config.images), Table("index")

    def update(self, seen: Observation) -> None:
        """Attack some images of one batch."""
        indices, maps, scores = class_maps(seen)
        own = torch.isin(seen.index, self._chosen.to(seen.index.device)) & (indices >= 0).any(1)
        if not own.any():
            return
        images, labels, indices, maps, scores = (
            part[own] for part in (seen.images, seen.labels, indices, maps, scores)
        )
        slot = torch.where(indices >= 0, scores, -torch.inf).argmax(1)
        row = torch.arange(len(slot), device=slot.device)
        before = highest(maps[row, slot], seen.size, self.config.share)
        changed = attacked(seen.model, images, labels, slot, outside_of(before), self.config)
        shown = seen.model.explain(changed, labels)
        shown_maps, shown_scores = shown.maps, shown.scores
        after = highest(shown_maps[row, slot], seen.size, self.config.share)
        shared, either = (before & after).sum((1, 2)), (before | after).sum((1, 2))
        top, fallen = scores[row, slot].double(), shown_scores[row, slot].double()
        foreign = ~seen.model.prototypes.classes.T[labels]
        all_before, all_after = (seen.model.explain(which).scores.double() for which in (images, changed))
        risen = (foreign & (all_before <= top[:, None]) & (all_after > fallen[:, None])).sum(1)
        self._rows.add(
            index=seen.index[own],
            label=labels,
            prototype=indices[row, slot],
            location=100 * (1 - shared.double() / either),
            activation=100 * (top - fallen) / top.abs().clamp(min=1e-12),
            rank=risen,
        )

    def compute(self) -> Score:
        """The mean over the images."""
        table = self._rows.arrays()
        also = {name: float(table[name].mean()) for name in ("activation", "rank")}
        return Score(float(table["location"].mean()), len(table["index"]), {"image": table}, also)
