"""Annotated parts around a prototype's peak, and the units that are scored (Huang et al., ICCV 2023).

Positions are ``(row, column)`` in pixels of a square canvas, 224 pixels wide in the published protocol
(``util/local_parts.py`` and ``util/eval_interpretability.py`` of hqhQAQ/EvalProtoPNet).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from bench.contract import (
    CellError,
    Explanation,
    NotApplicable,
    Observation,
    PartPrototypeModel,
    PrototypeTable,
    Samples,
)
from bench.core.memory import to_device
from metrics.peaks import CANVAS, centres, peaks

HALF = 36
"""Half the side of the published region: the 72 x 72 pixels of Huang et al., 73 with the border."""
PositiveShare = Annotated[float, Field(gt=0, le=1)]
"""Share above 0, for a threshold of 0 would be reached by everything."""


def require_parts(samples: Samples) -> None:
    """Raise :class:`NotApplicable` if a data set has no part key-points."""
    if not len(samples.parts):
        raise NotApplicable("the data set has no part key-points")


def require_prototypes(prototypes: PrototypeTable, purpose: str = "score") -> None:
    """Raise :class:`NotApplicable` if no prototype speaks for a class."""
    if not prototypes.classes.any():
        raise NotApplicable(f"the model has no prototype that speaks for a class, so there is nothing to {purpose}")


@dataclass(frozen=True)
class Region:
    """Definition of a peak and of the region around it.

    Attributes:
        half: half the side of the region in pixels.
        size: side of the canvas in pixels.
        cells: as in PixPNet: the peak is the centre of the highest cell, and a part, a box of one pixel, is hit if it
            shares some area with the region. Else the peak is the highest pixel of the upsampled map, and a part, a
            point, is hit if it is in the region, its border included.
        merged: for each part the number under which it is counted; empty: each part for itself.
    """

    half: int = HALF
    size: int = CANVAS
    cells: bool = False
    merged: tuple[int, ...] = ()


def hits(peaks: Tensor, keypoints: Tensor, visible: Tensor, half: int = HALF, size: int = CANVAS) -> Tensor:
    """Find the parts in the region around each peak.

    The region is rows ``max(0, row - half)`` to ``min(size, row + half)`` and columns likewise, inclusive on all four
    sides, as in ``util/eval_interpretability.py`` of hqhQAQ/EvalProtoPNet.

    Args:
        peaks: ``(N, K, 2)`` row and column on the canvas.
        keypoints: ``(N, parts, 2)`` row and column on the canvas.
        visible: bool ``(N, parts)``; an invisible part is never hit.
        half: half the side of the region in pixels.
        size: side of the canvas in pixels.

    Returns:
        bool ``(N, K, parts)``.

    Example:
        >>> hits(torch.tensor([[[64, 112]]]), torch.tensor([[[100, 76], [101, 76]]]), torch.tensor([[True, True]]))
        tensor([[[ True, False]]])
    """
    # Inclusive on all four sides, so 73 x 73 pixels away from the border.
    low, high = (peaks - half).clamp(min=0), (peaks + half).clamp(max=size)
    points = keypoints[:, None]
    return ((points >= low[:, :, None]) & (points <= high[:, :, None])).all(-1) & visible[:, None]


def overlaps(peaks: Tensor, keypoints: Tensor, visible: Tensor, half: int = HALF) -> Tensor:
    """Find the parts, each a box of one pixel, that share some area with the region around each peak.

    As in merlresearch/PixPNet, the region is cut off at 0 only. Arguments and result are those of :func:`hits`.

    Example:
        >>> overlaps(torch.tensor([[[64, 112]]]), torch.tensor([[[99, 76], [100, 76]]]), torch.tensor([[True, True]]))
        tensor([[[ True, False]]])
    """
    # Two intervals share some length if each begins before the other ends.
    low, high = (peaks - half).clamp(min=0), peaks + half
    points = keypoints[:, None]
    return ((points + 1 > low[:, :, None]) & (points < high[:, :, None])).all(-1) & visible[:, None]


def merge_sides(parts: Sequence[str]) -> tuple[int, ...]:
    """Return one number for the left and the right of a part.

    Example:
        >>> merge_sides(["beak", "left eye", "tail", "right eye"])
        (0, 1, 2, 1)
    """
    numbers: dict[str, int] = {}
    return tuple(numbers.setdefault(part.removeprefix("left ").removeprefix("right "), len(numbers)) for part in parts)


def to_canvas(keypoints: Tensor, source: int, size: int = CANVAS) -> Tensor:
    """Scale key-points from a square image of side ``source`` to the canvas, truncated to whole pixels.

    If the image has the canvas' size, they are returned unchanged.

    Example:
        >>> to_canvas(torch.tensor([[63.0, 31.5]], dtype=torch.float64), source=64).tolist()
        [[220.0, 110.0]]
    """
    return keypoints if source == size else torch.trunc(size * keypoints / source)


class Units:
    """Scored units: every (prototype, class for which it speaks), or every prototype over all its classes together.

    For class-specific methods both are the prototypes. The official code indexes prototypes by class, so that shared
    ones have no published definition: pairs are the default, pooled prototypes the alternative.

    Args:
        classes: bool ``(P, C)``.
        pooled: whether a prototype's classes are scored together.
    """

    def __init__(self, classes: Tensor, pooled: bool = False) -> None:
        # nonzero goes row by row, so units are sorted by prototype, then by class.
        self.prototype, self.label = classes.nonzero(as_tuple=True)
        self.pooled = pooled
        self._rows = torch.full(classes.shape, -1, dtype=torch.long, device=classes.device)
        if pooled:
            if len(self.prototype) and int(classes.sum(1).max()) == 1:
                raise NotApplicable("every prototype speaks for one class, so there is nothing to pool")
            self.prototype, unit = self.prototype.unique(return_inverse=True)
            self._classes = classes.sum(1)[self.prototype]
        else:
            unit = torch.arange(len(self.prototype), device=classes.device)
        self._rows[classes] = unit

    def __len__(self) -> int:
        return len(self.prototype)

    def rows(self, prototype: Tensor, label: Tensor) -> Tensor:
        """Return the positions of ``(U,)`` pairs in this list; -1 if a prototype does not speak for the class."""
        return self._rows[prototype.to(self._rows.device), label.to(self._rows.device)]

    def columns(self) -> dict[str, Tensor]:
        """Return each unit's prototype and class, or its prototype and the number of classes."""
        second = {"classes": self._classes} if self.pooled else {"class": self.label}
        return {"prototype": self.prototype, **second}

    def require(self) -> None:
        """Raise :class:`NotApplicable` if there is nothing to score."""
        if not len(self):
            raise NotApplicable("the model has no prototype that speaks for a class, so there is nothing to score")


@dataclass(frozen=True)
class PartHits:
    """Peaks and hits of the U pairs (image, prototype of its class) of a batch.

    Attributes:
        image: ``(U,)`` position in the batch.
        slot: ``(U,)`` number of the map among those of the image.
        prototype: ``(U,)`` row of the prototype table.
        label: ``(U,)`` class of the image.
        peaks: ``(U, 2)`` row and column on the canvas.
        hits: bool ``(U, parts)``.
        visible: bool ``(U, parts)``.
        valid: bool ``(N, K)``, which of the maps of a batch these are.
    """

    image: Tensor
    slot: Tensor
    prototype: Tensor
    label: Tensor
    peaks: Tensor
    hits: Tensor
    visible: Tensor
    valid: Tensor


def _class_slots(shown: Explanation, seen: Observation) -> tuple[Tensor, Tensor]:
    """Return the prototype of each map ``(N, K)``, and which of them speak for the image's true class."""
    count, width = shown.maps.shape[:2]
    owned = seen.model.prototypes.classes
    indices = shown.indices
    if indices is None:
        indices = torch.arange(width, device=shown.maps.device).expand(count, width)
    # Only prototypes of the true class count, on all of its images, whether they are classified correctly or not.
    labels = seen.labels[:, None].expand(count, width)
    return indices, (indices >= 0) & owned[indices.clamp(min=0), labels]


def of_classes(model: PartPrototypeModel, shown: Explanation, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return prototypes ``(N, K)`` of ``classes (N,)``, -1 for padding, with their maps and scores in ``shown``."""
    indices = shown.indices
    if indices is not None:
        return indices, shown.maps, shown.scores
    indices = model.prototypes.of(classes)
    return indices, model.pick(shown.maps, indices), model.pick(shown.scores, indices)


def mean_map(indices: Tensor, maps: Tensor) -> Tensor:
    """Compute the class map: the mean of the maps of a class's prototypes.

    It is what a prototype network shows for a class (``full/interpretability.py`` of cwangrun/ST-ProtoPNet), and up to
    a factor the map of the logit of a decomposed classifier. The logit's map of a prototype network also has the
    prototypes of all other classes, with negative weights, and may be below 0 everywhere on the object.

    Args:
        indices: ``(N, K)``, -1 for padding.
        maps: ``(N, K, h, w)``.

    Returns:
        ``(N, h, w)``; zeros for a class without prototypes.

    Example:
        >>> mean_map(torch.tensor([[4, 7, -1]]), torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]], [[9.0, 9.0]]]]))
        tensor([[[2., 1.]]])
    """
    real = indices >= 0
    return (maps * real[:, :, None, None]).sum(1) / real.sum(1).clamp(min=1)[:, None, None]


def class_maps(seen: Observation) -> tuple[Tensor, Tensor, Tensor]:
    """Return the explanation of each image's true class, padded to the largest class.

    Returns:
        Prototypes ``(N, K)``, -1 for padding, maps ``(N, K, h, w)`` and scores ``(N, K)``.

    Raises:
        CellError: if a map is not finite.
    """

    def look() -> tuple[Tensor, Tensor, Tensor]:
        indices, maps, scores = of_classes(seen.model, seen.own, seen.labels)
        if maps.numel():
            positions = seen.positions
            seen.require(
                maps.isfinite().flatten(1).all(1),
                lambda rows: CellError(
                    f"presence maps of test image {int(positions[rows[0]])} hold NaN or infinite values"
                ),
            )
        return indices, maps, scores

    return seen.once("class_maps", look)


def class_map(seen: Observation) -> Tensor:
    """Return the :func:`mean_map` of each image's true class, in the method's own cells: ``(N, h, w)``."""
    return seen.once("class map", lambda: mean_map(*class_maps(seen)[:2]))


def has_prototypes(seen: Observation) -> Tensor:
    """Return whether the true class of each image has prototypes: bool ``(N,)``."""
    return (class_maps(seen)[0] >= 0).any(1)


def class_peaks(seen: Observation) -> Tensor:
    """Return row and column of the peaks of :func:`class_maps` ``(N, K, 2)``; those of padding mean nothing."""
    return seen.once("class_peaks", lambda: peaks(class_maps(seen)[1], require=seen.require))


def part_hits(shown: Explanation, seen: Observation, region: Region, clean: PartHits | None = None) -> PartHits:
    """Find the peaks and hits of the prototypes of each image's true class.

    Args:
        shown: explanation of the batch, or of a noisy copy of it; padding is dropped.
        seen: the batch, for its labels and key-points.
        region: definition of peaks and hits.
        clean: of a noisy copy, those of the batch itself.

    Raises:
        CellError: if a map is not finite, or a noisy copy has other prototypes.
    """
    indices, valid = _class_slots(shown, seen)
    if clean is None:
        # How many there are is known on the device alone: of all that an evaluation does with a batch, the only wait.
        image, slot = valid.nonzero(as_tuple=True)
    else:
        _require_the_same(indices, valid, clean, seen)
        image, slot = clean.image, clean.slot
    prototype, label, positions = indices[image, slot], seen.labels[image], seen.positions

    def name(i: int) -> str:
        of_image = f"test image {int(positions[int(image[i])])} (class {int(label[i])})"
        return f"that of prototype {int(prototype[i])} for {of_image}"

    locate = centres if region.cells else peaks
    found = locate(shown.maps[image, slot][:, None], region.size, name=name, require=seen.require)
    points, visible = to_canvas(seen.keypoints, seen.size, region.size)[image], seen.visible[image]
    if region.cells:
        hit = overlaps(found, points, visible, region.half)[:, 0]
    else:
        hit = hits(found, points, visible, region.half, region.size)[:, 0]
    if region.merged:
        hit, visible = (_merge(values, region.merged) for values in (hit, visible))
    return PartHits(image, slot, prototype, label, found[:, 0], hit, visible, valid)


def _require_the_same(indices: Tensor, valid: Tensor, clean: PartHits, seen: Observation) -> None:
    """Refuse a noisy copy of a batch that is explained by other prototypes than the batch itself."""
    error = "the model shows other prototypes for a noisy copy of an image: hits cannot be compared"
    if valid.shape != clean.valid.shape:
        raise CellError(error)
    seen.require((valid == clean.valid).all(1), lambda rows: CellError(error))
    seen.require(indices[clean.image, clean.slot] == clean.prototype, lambda rows: CellError(error))


def _merge(values: Tensor, merged: tuple[int, ...]) -> Tensor:
    numbers = to_device(torch.tensor(merged), values.device)
    total = torch.zeros(len(values), max(merged) + 1, dtype=torch.long, device=values.device)
    return total.index_add_(1, numbers, values.long()) > 0


def class_hits(seen: Observation, region: Region) -> PartHits:
    """Return peaks and hits of the clean pass, computed once for all metrics with the same region."""
    return seen.once(("class_hits", region), lambda: part_hits(seen.own, seen, region))


class HitCounts:
    """Counts of the images in which a unit hits a part and of those showing it, and every prototype's peaks.

    Args:
        units: the scored units.
        parts: number of parts.
    """

    def __init__(self, units: Units, parts: int) -> None:
        self.units, device = units, units.prototype.device
        self.hits = torch.zeros(len(units), parts, dtype=torch.long, device=device)
        self.visible = torch.zeros_like(self.hits)
        self.images = torch.zeros(len(units), dtype=torch.long, device=device)
        self._rows: list[Tensor] = []

    def add(self, batch: PartHits, index: Tensor) -> None:
        """Count one batch; ``index (N,)`` are its positions in the split."""
        unit = self.units.rows(batch.prototype, batch.label)
        # Counts are whole numbers, so neither the order nor the size of batches can matter.
        self.hits.index_add_(0, unit, batch.hits.long().to(unit.device))
        self.visible.index_add_(0, unit, batch.visible.long().to(unit.device))
        self.images.index_add_(0, unit, torch.ones_like(unit))
        pairs = torch.stack((index[batch.image], batch.prototype, batch.label), 1)
        self._rows.append(torch.cat((pairs, batch.peaks), 1))

    def rates(self) -> Tensor:
        """Return the share of the images showing a part in which it was hit: float64, -1 for parts that none shows."""
        return torch.where(self.visible > 0, self.hits.double() / self.visible.clamp(min=1), -1.0)

    def image_table(self) -> dict[str, np.ndarray]:
        """Return one row per image and prototype of its class, with row and column of the peak."""
        return columns(self._rows, ("index", "prototype", "class", "row", "column"), keys=2)


def best_part(rates: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part with the highest of the ``(units, parts)`` rates, and that rate; -1 and 0 if none is visible."""
    # Even if the annotation has no parts at all, this leaves one column to take the maximum over.
    best = torch.cat((rates, rates.new_full((len(rates), 1), -1.0)), 1).max(1)
    return torch.where(best.values >= 0, best.indices, -1), best.values.clamp(min=0)


def arrays(table: dict[str, Tensor]) -> dict[str, Any]:
    """Return a table's columns as arrays on the CPU."""
    return {name: column.cpu().numpy() for name, column in table.items()}


def columns(rows: list[Tensor], names: tuple[str, ...], keys: int) -> dict[str, np.ndarray]:
    """Return rows gathered over batches as named columns, sorted so that batches do not matter.

    Args:
        rows: ``(n, columns)`` per batch.
        names: names of the columns.
        keys: number of the first columns, by which rows are sorted.

    Example:
        >>> columns([torch.tensor([[7, 0]]), torch.tensor([[2, 1]])], ("index", "hit"), keys=1)["index"].tolist()
        [2, 7]
    """
    whole = torch.cat(rows).cpu().numpy() if rows else np.zeros((0, len(names)), dtype=np.int64)
    whole = whole[np.lexsort(whole[:, :keys].T[::-1])]
    return {name: whole[:, number].copy() for number, name in enumerate(names)}
