"""Where a prototype peaks, and which annotated parts lie around that peak (spec: metrics.md, section 2.2).

All of it happens on a square canvas, 224 pixels wide in the published protocol; a pixel is ``(row, column)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from bench.contract import CellError, Explanation, Observation

CANVAS = 224
HALF = 36

# Chunks that stay in a CPU's cache are several times faster there; a GPU wants fewer, larger kernels.
_BUDGET = {"cpu": 2**22, "cuda": 2**28}

# Two float64 evaluations of values that are equal as real numbers differ by less than 2^-47 of the map's largest
# magnitude: each of the two passes adds at most four products whose weights sum to 1.375 in magnitude. Three more bits
# are a margin, and still 2^20 times finer than the steps of the float32 maps themselves.
_SLACK = 2.0**-44


@lru_cache(maxsize=64)
def _weights(source: int, target: int) -> np.ndarray:
    """The bicubic weights in float64, each correctly rounded."""
    # With D = 2 target, every phase is t / D for a whole t, so 4 D^3 times a weight (a = -3/4) is a whole number. Whole
    # numbers keep equal weights equal, and rows sum to one exactly before the one division at the end.
    side = 2 * target
    cell, t = np.divmod((2 * np.arange(target, dtype=np.int64) + 1) * source - target, side)
    matrix = np.zeros((target, source), dtype=np.int64)
    for step in (-1, 0, 1, 2):
        x = np.abs(t - step * side)
        near = 5 * x**3 - 9 * x**2 * side + 4 * side**3
        far = -3 * (x**3 - 5 * x**2 * side + 8 * x * side**2 - 4 * side**3)
        # Cells beyond the border repeat the border cell: its weight is the sum of theirs.
        np.add.at(matrix, (np.arange(target), (cell + step).clip(0, source - 1)), np.where(x <= side, near, far))
    return matrix / (4 * side**3)


def interpolation_matrix(source: int, target: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bicubic interpolation along one axis: a = -0.75, half-pixel centres, replicated border.

    A map ``m (h, w)`` is upsampled by ``A m B^T`` with ``A = interpolation_matrix(h, size)`` and
    ``B = interpolation_matrix(w, size)``: what ``cv2.resize(..., INTER_CUBIC)`` and torch's bicubic without
    anti-aliasing compute.

    Args:
        source: number of cells.
        target: number of pixels.
        dtype: of the result.

    Returns:
        ``(target, source)``, on the CPU.

    Example:
        >>> interpolation_matrix(3, 3).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return torch.from_numpy(_weights(source, target)).to(dtype, copy=True)


def _first_maxima(maps: Tensor, size: int, budget: int) -> tuple[Tensor, Tensor]:
    """Peaks ``(n, 2)`` of maps ``(n, h, w)`` and the values there ``(n,)``: not finite for broken maps."""
    count, height, width = maps.shape
    per_chunk = max(1, budget // (8 * size * size))
    positions = torch.empty(count, 2, dtype=torch.long, device=maps.device)
    tops = torch.empty(count, dtype=torch.float64, device=maps.device)
    if (height, width) == (size, size):
        # Nothing is interpolated, so nothing is rounded and ties are plain equalities.
        for start in range(0, count, per_chunk):
            top, at = maps[start : start + per_chunk].flatten(1).max(1)  # the first of equals, as argmax
            positions[start : start + per_chunk] = torch.stack((at // size, at % size), 1)
            tops[start : start + per_chunk] = top
        return positions, tops

    down = interpolation_matrix(height, size, torch.float64).to(maps.device)
    across = interpolation_matrix(width, size, torch.float64).to(maps.device).T
    for start in range(0, count, per_chunk):
        chunk = maps[start : start + per_chunk].double()
        pixels = (down @ chunk) @ across
        rows = pixels.amax(2)
        top = rows.amax(1)
        # Pixels whose exact values tie for the maximum (a constant map, the four pixels around a hot cell's centre, two
        # equal cells) differ here by rounding only, and rounding must not choose: what is within the rounding error of
        # the maximum is at the maximum, and the first such pixel in row-major order is the peak.
        reached = top - _SLACK * chunk.abs().amax((1, 2))
        row = (rows >= reached[:, None]).to(torch.uint8).argmax(1)
        line = pixels[torch.arange(len(chunk), device=maps.device), row]
        column = (line >= reached[:, None]).to(torch.uint8).argmax(1)
        positions[start : start + per_chunk] = torch.stack((row, column), 1)
        tops[start : start + per_chunk] = top
    return positions, tops


def _peaks(maps: Tensor, size: int, budget: int | None, name: Callable[[int], str]) -> Tensor:
    """Peaks ``(n, 2)`` of maps ``(n, h, w)``; ``name(i)`` tells a reader which map the i-th is."""
    positions, tops = _first_maxima(maps, size, budget or _BUDGET.get(maps.device.type, _BUDGET["cpu"]))
    # Interpolation mixes every cell into the result, so a NaN or an infinity anywhere in a map shows in its maximum.
    broken = ~torch.isfinite(tops)
    if broken.any():
        which = int(broken.nonzero()[0])
        raise CellError(
            f"{int(broken.sum())} of {len(maps)} presence maps hold NaN or infinite values; the first is {name(which)}."
            " A map like that has no peak: look for a division by zero or a logarithm of zero in the method."
        )
    return positions


def peaks(maps: Tensor, size: int = CANVAS, budget: int | None = None) -> Tensor:
    """The first maximum, in row-major order, of each map after bicubic upsampling to ``size`` x ``size``.

    Exact ties are decided by the order of pixels alone, never by rounding; differences below 2^-44 of a map's largest
    magnitude, which float64 cannot tell from rounding, count as ties too. Source: metrics.md, sections 2.2 and 11.3.

    Args:
        maps: ``(N, K, h, w)``.
        size: side of the canvas in pixels.
        budget: bytes that upsampled maps may take at a time (at least one map is held); default by device.

    Returns:
        int64 ``(N, K, 2)``: row and column.

    Raises:
        CellError: where a map is not finite, naming it.

    Example:
        >>> hot = torch.zeros(1, 1, 7, 7)
        >>> hot[0, 0, 3, 0] = 1
        >>> peaks(hot).tolist()
        [[[111, 5]]]
    """
    images, count = maps.shape[:2]
    found = _peaks(maps.flatten(0, 1), size, budget, lambda i: f"map {i % count} of image {i // count} in the batch")
    return found.reshape(images, count, 2)


def hits(peaks: Tensor, keypoints: Tensor, visible: Tensor, half: int = HALF, size: int = CANVAS) -> Tensor:
    """Which parts lie in the region around each peak.

    The region is rows ``max(0, row - half)`` to ``min(size, row + half)`` and columns likewise, inclusive on all four
    sides. Source: metrics.md, section 2.2.

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
    low, high = (peaks - half).clamp(min=0), (peaks + half).clamp(max=size)
    points = keypoints[:, None]
    return ((points >= low[:, :, None]) & (points <= high[:, :, None])).all(-1) & visible[:, None]


def to_canvas(keypoints: Tensor, source: int, size: int = CANVAS) -> Tensor:
    """Key-points in pixels of a square image of side ``source`` -> on the canvas, truncated (metrics.md, section 2.1).

    Where the image has the canvas' size they stay as they are.

    Example:
        >>> to_canvas(torch.tensor([[63.0, 31.5]], dtype=torch.float64), source=64).tolist()
        [[220.0, 110.0]]
    """
    return keypoints if source == size else torch.trunc(size * keypoints / source)


class Pairs:
    """The units that are scored: every (prototype, class it speaks for), in the order of the prototype table.

    For class-specific methods these are the prototypes. Source: metrics.md, section 4, option A.

    Args:
        classes: bool ``(P, C)``.
    """

    def __init__(self, classes: Tensor) -> None:
        self.prototype, self.label = classes.nonzero(as_tuple=True)
        self._rows = torch.full(classes.shape, -1, dtype=torch.long, device=classes.device)
        self._rows[self.prototype, self.label] = torch.arange(len(self), device=classes.device)

    def __len__(self) -> int:
        return len(self.prototype)

    def rows(self, prototype: Tensor, label: Tensor) -> Tensor:
        """Positions of the pairs ``(U,)`` in this list; -1 where a prototype does not speak for the class."""
        return self._rows[prototype.to(self._rows.device), label.to(self._rows.device)]

    def require(self) -> None:
        """Raise :class:`CellError` where there is nothing to score."""
        if not len(self):
            raise CellError("the model has no prototype that speaks for a class, so there is nothing to score")


@dataclass(frozen=True)
class PartHits:
    """The U (image, prototype of its class) of a batch: where each peaks and what it hits there.

    Attributes:
        image: ``(U,)`` place in the batch.
        prototype: ``(U,)`` row of the prototype table.
        label: ``(U,)`` class of the image.
        peaks: ``(U, 2)`` row and column on the canvas.
        hits: bool ``(U, parts)``.
        visible: bool ``(U, parts)``.
    """

    image: Tensor
    prototype: Tensor
    label: Tensor
    peaks: Tensor
    hits: Tensor
    visible: Tensor


def part_hits(shown: Explanation, seen: Observation, half: int = HALF, size: int = CANVAS) -> PartHits:
    """Peaks and hits of an explanation of a batch, for the prototypes of each image's true class.

    Args:
        shown: what the model shows for the batch (or for a noisy copy of it); padding is dropped.
        seen: the batch, for its labels and key-points.
        half: half the side of the region in pixels.
        size: side of the canvas in pixels.
    """
    count, width = shown.maps.shape[:2]
    owned = seen.model.prototypes.classes
    indices = shown.indices
    if indices is None:
        indices = torch.arange(width, device=shown.maps.device).expand(count, width)
    labels = seen.labels[:, None].expand(count, width)
    valid = (indices >= 0) & owned[indices.clamp(min=0), labels]
    image, slot = valid.nonzero(as_tuple=True)
    prototype, label = indices[image, slot], seen.labels[image]

    def name(i: int) -> str:
        where = f"test image {int(seen.index[image[i]])} (class {int(label[i])})"
        return f"that of prototype {int(prototype[i])} for {where}"

    found = _peaks(shown.maps[image, slot], size, None, name)
    points, visible = to_canvas(seen.keypoints, seen.size, size)[image], seen.visible[image]
    hit = hits(found[:, None], points, visible, half, size)[:, 0]
    return PartHits(image, prototype, label, found, hit, visible)


def own_hits(seen: Observation, half: int = HALF, size: int = CANVAS) -> PartHits:
    """Peaks and hits of the clean pass, computed once for all metrics that ask for the same region."""
    return seen.once(("own_hits", half, size), lambda: part_hits(seen.own, seen, half, size))


def columns(rows: list[Tensor], names: tuple[str, ...], keys: int) -> dict[str, np.ndarray]:
    """Whole-number rows gathered over batches as named columns, in an order that the batches have no say in.

    Args:
        rows: ``(n, columns)`` per batch.
        names: of the columns.
        keys: how many of the first columns to sort by.

    Example:
        >>> columns([torch.tensor([[7, 0]]), torch.tensor([[2, 1]])], ("index", "hit"), keys=1)["index"].tolist()
        [2, 7]
    """
    whole = torch.cat(rows).cpu().numpy() if rows else np.zeros((0, len(names)), dtype=np.int64)
    whole = whole[np.lexsort(whole[:, :keys].T[::-1])]
    return {name: whole[:, place].copy() for place, name in enumerate(names)}
