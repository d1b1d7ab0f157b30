"""Feature maps of evenly spread test images under a model's head in double precision, for the axioms."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from bench.contract import CellError, NotApplicable, Observation, PartPrototypeModel, Samples, require_all
from bench.core.memory import to_device
from metrics.peaks import Require

Reading = Literal["displayed", "contribution", "shapley"]

# Bytes that the changed copies of feature maps may take at a time.
_BUDGET = {"cpu": 2**27, "cuda": 2**30}


@dataclass(frozen=True)
class Features:
    """Features of some images of a batch.

    Attributes:
        model: copy with its head in double precision and without a backbone.
        maps: ``(n, D, h, w)``, float64.
        logits: ``(n, C)``.
        classes: ``(2, n)``, true and predicted.
        index: ``(n,)`` positions in the split, on the CPU.
        require: :meth:`Observation.require <bench.contract.Observation.require>` of the batch.
    """

    model: PartPrototypeModel
    maps: Tensor
    logits: Tensor
    classes: Tensor
    index: Tensor
    require: Require = require_all

    def logit(self, classes: Tensor) -> Tensor:
        """Return the logits of ``classes (n,)``."""
        return self.logits.gather(1, classes[:, None])[:, 0]


def in_double(model: PartPrototypeModel) -> PartPrototypeModel:
    """Return a copy of the model's head in float64, so that residuals are the method's and not those of rounding."""
    bare = copy.copy(model)
    # Without its backbone, so that the deep copy takes the memory of the head alone.
    bare.__dict__["_modules"] = {**model._modules, "backbone": nn.Identity()}
    return copy.deepcopy(bare).double()


def spread(count: int, most: int) -> Tensor:
    """Return at most ``most`` positions, evenly spread over a split of ``count`` images.

    Example:
        >>> spread(10, 4).tolist()
        [0, 2, 5, 7]
    """
    return torch.arange(min(count, most)) * count // min(count, most) if count else torch.arange(0)


def chosen_rows(seen: Observation, samples: Samples, most: int) -> Tensor:
    """Return the rows of a batch that are among ``most`` images evenly spread over the split: int64 ``(n,)``, CPU."""
    return torch.isin(seen.positions, spread(len(samples), most)).nonzero()[:, 0]


def chosen_features(seen: Observation, samples: Samples, most: int) -> Features | None:
    """Return the features of those images of a batch that are among ``most`` of the split; ``None`` if there are none.

    They are computed once for all metrics that choose the same number of images.
    """

    def look() -> Features | None:
        rows = chosen_rows(seen, samples, most)
        if not len(rows):
            return None
        index, rows = seen.positions[rows], to_device(rows, seen.images.device)
        maps = seen.features[rows].double()
        model = seen.throughout("head in double precision", lambda: in_double(seen.model))
        logits = model.logits(maps)
        seen.require(
            logits.isfinite().all(1),
            lambda broken: CellError(f"the logits of test image {int(index[broken[0]])} are not finite"),
        )
        classes = torch.stack((seen.labels[rows], logits.argmax(1)))
        return Features(model, maps, logits, classes, index, seen.require)

    return seen.once(("chosen features", min(len(samples), most)), look)


def attribution(
    model: PartPrototypeModel,
    maps: Tensor,
    classes: Tensor,
    reading: Reading,
    alike: bool = True,
    require: Require = require_all,
) -> Tensor:
    """Compute a method's attribution of a logit to each cell: float64 ``(n, h w)``.

    Args:
        model: from :class:`Features`.
        maps: ``(n, D, h, w)``.
        classes: ``(n,)``.
        reading: the map that the method displays, its exact contributions, or the cells' Shapley values.
        alike: whether its cells have to be those of the features.
        require: as in :class:`Features`.

    Raises:
        NotApplicable: if it has no such reading, or displays other cells than those of the features.
        CellError: if a map is not finite.
    """
    readings = {"displayed": model.attribute, "contribution": model.contributions, "shapley": model.shapley}
    shown = readings[reading](maps, classes)
    if alike and shown.shape[1:] != maps.shape[2:]:
        cells, wanted = ("x".join(map(str, shape)) for shape in (shown.shape[1:], maps.shape[2:]))
        raise NotApplicable(f"its map has {cells} cells, not the {wanted} of the features")
    error = "an attribution map holds NaN or infinite values: look for a division by zero in the method"
    require(shown.isfinite().flatten(1).all(1), lambda rows: CellError(error))
    return shown.flatten(1).double()


def logit_changes(features: Features, baseline: Tensor) -> Tensor:
    """Compute the fall of the true and the predicted logit if a cell becomes ``baseline (D,)``: ``(2, n, h w)``."""
    maps = features.maps.flatten(2)
    count, channels, cells = maps.shape
    per_map = 8 * cells * features.model.cell_numbers(channels)
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
    """Yield a generator for each image, the same in any batch."""
    for position in features.index.tolist():
        yield np.random.default_rng((seed, purpose, position))
