"""Feature maps of some test images under a model's head, in double precision: what the axioms are measured on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from bench.contract import CellError, NotApplicable, Observation, PartPrototypeModel

Reading = Literal["displayed", "contribution"]

_BUDGET = {"cpu": 2**27, "cuda": 2**30}


@dataclass(frozen=True)
class Features:
    """Some images of a batch.

    Attributes:
        model: whose head is in double precision; it has no backbone.
        maps: ``(n, D, h, w)``, float64.
        logits: ``(n, C)``.
        classes: ``(2, n)``, true and predicted.
        index: ``(n,)`` positions in the split.
    """

    model: PartPrototypeModel
    maps: Tensor
    logits: Tensor
    classes: Tensor
    index: Tensor

    def logit(self, classes: Tensor) -> Tensor:
        """The logits of ``classes (n,)``."""
        return self.logits.gather(1, classes[:, None])[:, 0]


def in_double(model: PartPrototypeModel) -> PartPrototypeModel:
    """A copy of the model's head in float64: residuals then tell about the method, not about rounding."""
    bare = copy.copy(model)
    # The backbone stays behind: only what comes after it is copied.
    bare.__dict__["_modules"] = {**model._modules, "backbone": nn.Identity()}
    return copy.deepcopy(bare).double()


def spread(count: int, most: int) -> Tensor:
    """At most so many positions, evenly spread over a split.

    Example:
        >>> spread(10, 4).tolist()
        [0, 2, 5, 7]
    """
    return torch.arange(min(count, most)) * count // min(count, most) if count else torch.arange(0)


def chosen_features(seen: Observation, chosen: Tensor) -> Features | None:
    """Features of those images of a batch whose positions are among ``chosen``; ``None`` where there are none.

    They are computed once for all metrics that choose the same number of images.
    """

    def look() -> Features | None:
        own = torch.isin(seen.index, chosen.to(seen.index.device)).nonzero()[:, 0]
        if not len(own):
            return None
        maps = seen.features[own].double()
        model = in_double(seen.model)
        logits = model.logits(maps)
        if not logits.isfinite().all():
            raise CellError(f"the logits of test image {int(seen.index[own][0])} or later ones are not finite")
        return Features(model, maps, logits, torch.stack((seen.labels[own], logits.argmax(1))), seen.index[own])

    return seen.once(("chosen features", len(chosen)), look)


def attribution(
    model: PartPrototypeModel, maps: Tensor, classes: Tensor, reading: Reading, alike: bool = True
) -> Tensor:
    """What a method says each cell has to do with a logit: float64 ``(n, h w)``.

    Args:
        model: from :class:`Features`.
        maps: ``(n, D, h, w)``.
        classes: ``(n,)``.
        reading: the map that it shows, or its exact contributions.
        alike: whether its cells have to be those of the features.

    Raises:
        NotApplicable: where it has no exact contributions, or shows other cells than those of the features.
        CellError: where a map is not finite.
    """
    found = (model.attribute if reading == "displayed" else model.contributions)(maps, classes)
    if alike and found.shape[1:] != maps.shape[2:]:
        cells, own = ("x".join(map(str, shape)) for shape in (found.shape[1:], maps.shape[2:]))
        raise NotApplicable(f"its map has {cells} cells, not the {own} of the features")
    if not found.isfinite().all():
        raise CellError("an attribution map holds NaN or infinite values: look for a division by zero in the method")
    return found.flatten(1).double()


def logit_changes(features: Features, baseline: Tensor) -> Tensor:
    """By how much the true and the predicted logit fall when a cell becomes ``baseline (D,)``: ``(2, n, h w)``."""
    maps = features.maps.flatten(2)
    count, channels, cells = maps.shape
    per_map = 8 * cells * (4 * channels + 4 * max(1, len(features.model.prototypes)))
    step = max(1, _BUDGET.get(maps.device.type, _BUDGET["cpu"]) // per_map)
    changed = torch.empty(2, count * cells, dtype=maps.dtype, device=maps.device)
    for part in torch.arange(count * cells, device=maps.device).split(step):
        image, cell = part // cells, part % cells
        without = maps[image]
        without[torch.arange(len(part), device=maps.device), :, cell] = baseline
        logits = features.model.logits(without.unflatten(2, features.maps.shape[2:]))
        changed[:, part] = (features.logits[image] - logits).gather(1, features.classes[:, image].T).T
    return changed.unflatten(1, (count, cells))


def draws(features: Features, purpose: int, seed: int) -> Iterator[np.random.Generator]:
    """A generator for each image, the same in any batch."""
    for position in features.index.tolist():
        yield np.random.default_rng((seed, purpose, position))
