"""Peaks of maps that are upsampled to a square canvas, as in EvalProtoPNet (Huang et al., ICCV 2023).

The upsampled map is never computed as a whole. Between the centres of two neighbouring cells, in rows and in columns,
it is one polynomial of degree 3 x 3, and a polynomial is within the hull of its Bezier points. So a few numbers per
block bound it from above, a few sampled pixels bound the maximum from below, and only blocks that can contain the
maximum are computed pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from bench.contract import CellError, Refused, require_all

Require = Callable[[Tensor, Refused], None]
CANVAS = 224
"""Side of the canvas in pixels in the published protocol."""

# Chunks that stay in a CPU's cache are several times faster there; a GPU wants fewer, larger kernels.
_BUDGET = {"cpu": 2**22, "cuda": 2**28}

# Two float64 evaluations of values that are equal as real numbers differ by less than 2^-47 of the map's largest
# magnitude: each of the two passes adds at most four products whose weights sum to 1.375 in magnitude. Three more bits
# are a margin, and still 2^20 times finer than the steps of the float32 maps themselves.
_SLACK = 2.0**-44

# Of bounds in single precision, for maps whose largest magnitude is 1; their rounding error is below a tenth of it.
_MARGIN = 1e-5

# Blocks beyond which all pixels of a map are computed.
_MANY = 40

# Tangents of the cubic are 3/4 of the difference of the neighbours; its inner Bezier points are a third of them away.
_BEZIER = np.array([[0, 4, 0, 0], [-1, 4, 1, 0], [0, 1, 4, -1], [0, 0, 4, 0]]) / 4


def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return for each pixel the cell before it, and four weights in whole numbers with their common denominator."""
    # With D = 2 target, every phase is t / D for a whole t, so 4 D^3 times a weight (a = -3/4) is a whole number. Whole
    # numbers keep equal weights equal, and rows sum to one exactly before the one division at the end.
    side = 2 * target
    cell, t = np.divmod((2 * np.arange(target, dtype=np.int64) + 1) * source - target, side)
    x = np.abs(t[:, None] - np.array([-1, 0, 1, 2]) * side)
    near = 5 * x**3 - 9 * x**2 * side + 4 * side**3
    far = -3 * (x**3 - 5 * x**2 * side + 8 * x * side**2 - 4 * side**3)
    return cell, np.where(x <= side, near, far), 4 * side**3


@lru_cache(maxsize=64)
def _weights(source: int, target: int) -> np.ndarray:
    """Return the bicubic weights ``(target, source)`` in float64, each correctly rounded."""
    cell, weight, scale = _taps(source, target)
    matrix = np.zeros((target, source), dtype=np.int64)
    for step in range(4):
        # Cells beyond the border repeat the border cell: its weight is the sum of theirs.
        np.add.at(matrix, (np.arange(target), (cell + step - 1).clip(0, source - 1)), weight[:, step])
    return matrix / scale


def interpolation_matrix(source: int, target: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the matrix of bicubic interpolation along one axis: a = -0.75, half-pixel centres, replicated border.

    A map ``m (h, w)`` is upsampled by ``A m B^T`` with ``A = interpolation_matrix(h, size)`` and
    ``B = interpolation_matrix(w, size)``, like in ``cv2.resize(..., INTER_CUBIC)`` and torch's bicubic without
    anti-aliasing.

    Args:
        source: number of cells.
        target: number of pixels.
        dtype: type of the result.

    Returns:
        ``(target, source)``, on the CPU.

    Example:
        >>> interpolation_matrix(3, 3).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return torch.from_numpy(_weights(source, target)).to(dtype, copy=True)


@dataclass(frozen=True)
class _Axis:
    """Axis cut into blocks: block b is between the centres of cells b - 1 and b. Each has four quarters.

    Attributes:
        cells: ``(blocks, 4)`` the cells that reach into each block.
        pixels: ``(blocks, 4, n)`` of each quarter; if there are fewer than n, the last one is repeated.
        weights: ``(blocks, 4, n, 4)`` of the block's cells in those pixels, float64.
        filled: bool ``(blocks, 4)``, whether the quarter has pixels.
        hull: ``(4 blocks, source)`` gives the Bezier points of the blocks, float32.
        quarters: ``(16, 4)`` gives those of a block's quarters from its cells, float32.
        samples: ``(s, source)`` gives the values of some pixels, about four per cell, float32.
    """

    cells: Tensor
    pixels: Tensor
    weights: Tensor
    filled: Tensor
    hull: Tensor
    quarters: Tensor
    samples: Tensor


@lru_cache(maxsize=64)
def _axis(source: int, target: int, device: torch.device) -> _Axis | None:
    """Return the blocks of an axis; ``None`` if so few pixels are in a block that bounding it does not pay."""
    if 4 * source > target:
        return None
    cell, weight, scale = _taps(source, target)
    side = 2 * target
    quarter = 4 * (cell + 1) + 4 * ((2 * np.arange(target) + 1) * source - target - cell * side) // side
    numbers = np.arange(4 * (source + 1))
    first, end = np.searchsorted(quarter, numbers), np.searchsorted(quarter, numbers, side="right")
    pixels = np.minimum(first[:, None] + np.arange((end - first).max()), end[:, None] - 1).clip(0)
    cells = (np.arange(source + 1)[:, None] + np.arange(-2, 2)).clip(0, source - 1)
    hull = np.zeros((4 * (source + 1), source))
    for step in range(4):
        np.add.at(hull, (numbers, cells[numbers // 4, step]), _BEZIER[numbers % 4, step])
    near = np.unique(((np.arange(4 * source) + 2) * target // (4 * source)).clip(0, target - 1))
    arrays = (
        cells,
        pixels.reshape(source + 1, 4, -1),
        (weight / scale)[pixels].reshape(source + 1, 4, -1, 4),
        (end > first).reshape(source + 1, 4),
        hull.astype(np.float32),
        (_quarters() @ _BEZIER).astype(np.float32),
        _weights(source, target)[near].astype(np.float32),
    )
    return _Axis(*(torch.from_numpy(array).to(device) for array in arrays))


def _quarters() -> np.ndarray:
    """Return the matrix ``(16, 4)`` from a cubic's Bezier points to its quarters', by halving twice (de Casteljau)."""
    left = np.array([[8, 0, 0, 0], [4, 4, 0, 0], [2, 4, 2, 0], [1, 3, 3, 1]]) / 8
    right = left[::-1, ::-1]
    return np.concatenate([second @ half for half in (left, right) for second in (left, right)])


def _both(maps: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Return ``down @ map @ across^T`` of each map, transposed: two products of matrices, not of stacks of them."""
    return (maps @ across.T).transpose(1, 2).contiguous() @ down.T


def _tops(points: Tensor) -> Tensor:
    """Return the highest of each 4 x 4 Bezier points ``(n, 4 a, 4 b) -> (n, a, b)``."""
    count, wide, high = points.shape
    return points.view(count, wide // 4, 4, high // 4, 4).amax(4).amax(2)


def _first_maxima(maps: Tensor, size: int, budget: int) -> tuple[Tensor, Tensor]:
    """Find the peaks of maps ``(n, h, w)``: pixels ``(n,)`` in row-major order, and their values ``(n,)``.

    The values are not finite for broken maps, and the pixels then mean nothing.
    """
    height, width = maps.shape[1:]
    if (height, width) == (size, size):
        # Nothing is interpolated, so nothing is rounded and ties are plain equalities.
        tops, pixels = maps.flatten(1).max(1)  # the first of equals, as argmax
        return pixels, torch.where(maps.isfinite().flatten(1).all(1), tops, torch.nan)
    down, across = (_axis(side, size, maps.device) for side in (height, width))
    # The search has tensors of unknown size, for each of which a GPU would wait; all pixels take it a millisecond.
    if down is None or across is None or maps.is_cuda:
        chunks = [_whole(chunk, size, budget) for chunk in maps.split(2**14)]
    else:
        per_chunk = max(1, budget // (12 * len(down.hull) * len(across.hull)))
        chunks = [_searched(chunk, size, down, across, budget) for chunk in maps.split(per_chunk)]
    pixels, tops = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return pixels, tops


@lru_cache(maxsize=64)
def matrix_on(device: torch.device, source: int, target: int) -> Tensor:
    """Return :func:`interpolation_matrix` in float64 on a device; it must not be changed."""
    return interpolation_matrix(source, target, torch.float64).to(device)


def _whole(maps: Tensor, size: int, budget: int) -> tuple[Tensor, Tensor]:
    """Find peaks by computing every pixel."""
    down, across = (matrix_on(maps.device, side, size) for side in maps.shape[1:])
    peak = torch.empty(len(maps), dtype=torch.long, device=maps.device)
    tops = torch.empty(len(maps), dtype=torch.float64, device=maps.device)
    # Of each map: pixels in float64, the product of one axis, and two masks of a byte.
    step = max(1, budget // (size * (10 * size + 8 * maps.shape[2])))
    for start in range(0, len(maps), step):
        chunk = maps[start : start + step].double()
        pixels = ((down @ chunk) @ across.T).flatten(1)
        top = pixels.amax(1)
        # Pixels whose exact values tie for the maximum (a constant map, the four pixels around a hot cell's centre, two
        # equal cells) differ here by rounding only, and rounding must not choose: a pixel within the rounding error of
        # the maximum is at the maximum, and the first such pixel in row-major order is the peak.
        reached = top - _SLACK * chunk.abs().amax((1, 2))
        peak[start : start + step] = (pixels >= reached[:, None]).to(torch.uint8).argmax(1)
        tops[start : start + step] = top
        del pixels  # else it would be there while the next are computed
    return peak, tops


def _searched(maps: Tensor, size: int, down: _Axis, across: _Axis, budget: int) -> tuple[Tensor, Tensor]:
    """Find peaks by computing the quarters of blocks that can contain the maximum."""
    count, width = len(maps), maps.shape[2]
    maps = maps.double()
    scale = maps.abs().amax((1, 2))
    unit = (maps / scale.clamp(min=1e-300)[:, None, None]).float()
    # Bounds are in single precision, so they get a margin: pixels that tie with the maximum must not be missed.
    enough = _both(unit, down.samples, across.samples).amax((1, 2)) - _MARGIN
    above = _tops(_both(unit, down.hull, across.hull))
    number, column, row = (above >= enough[:, None, None]).nonzero(as_tuple=True)
    # A map of ties everywhere, a constant one for example, has to be computed as a whole.
    full = torch.bincount(number, minlength=count) > _MANY
    if full.any():
        number, column, row = (part[~full[number]] for part in (number, column, row))
    cells = down.cells[row][:, :, None] * width + across.cells[column][:, None, :]
    above = _tops(_both(unit.flatten(1)[number[:, None, None], cells], down.quarters, across.quarters))
    above = (above >= enough[number, None, None]) & across.filled[column][:, :, None] & down.filled[row][:, None, :]
    block, across_quarter, down_quarter = above.nonzero(as_tuple=True)
    number, column, row, cells = number[block], column[block], row[block], cells[block]
    corners = maps.flatten(1)[number[:, None, None], cells]
    across_weights = across.weights[column, across_quarter].transpose(1, 2)
    pixels = (down.weights[row, down_quarter] @ (corners @ across_weights)).flatten(1)
    highest = pixels.amax(1)
    tops = highest.new_full((count,), -torch.inf).scatter_reduce_(0, number, highest, "amax")
    reached = tops - _SLACK * scale
    # Pixels that tie within rounding are equal, and the first in row-major order is the peak: see `_whole`.
    last = (highest >= reached[number]).nonzero()[:, 0]
    number, row, column = number[last], row[last], column[last]
    at = down.pixels[row, down_quarter[last]][:, :, None] * size
    at = (at + across.pixels[column, across_quarter[last]][:, None, :]).flatten(1)
    at = torch.where(pixels[last] >= reached[number, None], at, size * size)
    peak = torch.full((count,), size * size, device=maps.device)
    peak.scatter_reduce_(0, number, at.amin(1), "amin")
    if full.any():
        peak[full], tops[full] = _whole(maps[full], size, budget)
    return peak, tops


def peaks(
    maps: Tensor,
    size: int = CANVAS,
    budget: int | None = None,
    name: Callable[[int], str] | None = None,
    require: Require = require_all,
) -> Tensor:
    """Find the first maximum, in row-major order, of each map after bicubic upsampling to ``size`` x ``size``.

    Exact ties are decided by the order of pixels alone, never by rounding; differences below 2^-44 of a map's largest
    magnitude, which float64 cannot distinguish from rounding, count as ties too. Source: the ``cv2.resize`` and
    ``argmax`` of ``util/eval_interpretability.py`` in hqhQAQ/EvalProtoPNet.

    Args:
        maps: ``(N, K, h, w)``.
        size: side of the canvas in pixels.
        budget: bytes that bounds and pixels may take at a time, each; default by device.
        name: function from the number of a map to its name in an error.
        require: :meth:`Observation.require <bench.contract.Observation.require>` of the batch, to look later.

    Returns:
        int64 ``(N, K, 2)``: row and column.

    Raises:
        CellError: if a map is not finite, naming it.

    Example:
        >>> hot = torch.zeros(1, 1, 7, 7)
        >>> hot[0, 0, 3, 0] = 1
        >>> peaks(hot).tolist()
        [[[111, 5]]]
    """
    flat = maps.flatten(0, 1)
    if not len(flat):
        return torch.zeros(*maps.shape[:2], 2, dtype=torch.long, device=maps.device)
    pixels, tops = _first_maxima(flat, size, budget or _BUDGET.get(maps.device.type, _BUDGET["cpu"]))
    # Interpolation mixes every cell into the result, so a NaN or an infinity anywhere in a map shows in its maximum.
    _require_finite(torch.isfinite(tops), maps.shape[1], name, require)
    return torch.stack((pixels // size, pixels % size), 1).reshape(*maps.shape[:2], 2)


def centres(
    maps: Tensor, size: int = CANVAS, name: Callable[[int], str] | None = None, require: Require = require_all
) -> Tensor:
    """Find the centre of the first highest cell of each map, in whole pixels of the canvas.

    This is the peak of method ``upsample`` in merlresearch/PixPNet. Arguments, result and errors are those of
    :func:`peaks`.

    Example:
        >>> hot = torch.zeros(1, 1, 7, 7)
        >>> hot[0, 0, 3, 0] = 1
        >>> centres(hot).tolist()
        [[[112, 16]]]
    """
    flat = maps.flatten(2)
    _require_finite(torch.isfinite(flat).all(2).flatten(), maps.shape[1], name, require)
    height, width = maps.shape[2:]
    cell = flat.argmax(2) if flat.numel() else flat.new_zeros(flat.shape[:2], dtype=torch.long)
    middle = torch.stack(((cell // width + 0.5) * size / height, (cell % width + 0.5) * size / width), 2)
    return middle.round().long()


def _require_finite(finite: Tensor, count: int, name: Callable[[int], str] | None, require: Require) -> None:
    def refused(rows: list[int]) -> CellError:
        named = name(rows[0]) if name else f"map {rows[0] % count} of image {rows[0] // count} in the batch"
        return CellError(
            f"{len(rows)} of {len(finite)} presence maps hold NaN or infinite values; the first is {named}."
            " A map like that has no peak: look for a division by zero or a logarithm of zero in the method."
        )

    require(finite, refused)
