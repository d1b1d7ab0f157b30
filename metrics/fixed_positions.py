"""Hits of prototypes that always peak at one position, from the annotations alone."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.contract import Samples
from metrics.parts import HALF, hits, to_canvas
from metrics.peaks import CANVAS


def grid(step: int, size: int = CANVAS) -> Tensor:
    """Return every ``step``-th pixel in both directions: ``(G, 2)`` row and column, row by row.

    Example:
        >>> grid(112).tolist()
        [[0, 0], [0, 112], [112, 0], [112, 112]]
    """
    steps = torch.arange(0, size, step)
    return torch.cartesian_prod(steps, steps)


def fixed_hits(split: Samples, pixels: Tensor, half: int = HALF, size: int = CANVAS) -> tuple[Tensor, Tensor]:
    """Count the images of each class in which the region around a fixed pixel contains a part, and those showing it.

    Args:
        split: split of which the annotations are read.
        pixels: ``(G, 2)`` row and column on the canvas.
        half: half the side of the region in pixels.
        size: side of the canvas in pixels.

    Returns:
        int64 ``(classes, G, parts)`` and ``(classes, parts)``, on the CPU.
    """
    points, shown = to_canvas(split.keypoints, split.size, size), split.visible
    visible = torch.zeros(split.classes, shown.shape[1], dtype=torch.long).index_add_(0, split.labels, shown.long())
    counts = []
    for chunk in pixels.split(64):  # 64 pixels x 6,000 images x 15 parts are 6 MB of hits
        hit = hits(chunk.expand(len(points), -1, -1), points, shown, half, size)
        of_class = torch.zeros(split.classes, *hit.shape[1:], dtype=torch.int32)
        counts.append(of_class.index_add_(0, split.labels, hit.int()).long())
    return torch.cat(counts, 1), visible


def best_positions(hit: Tensor, visible: Tensor, enough: int = 10) -> Tensor:
    """Choose for each class the position that hits some one part most often; of equally good ones the last.

    Rates are compared as they are rounded, so equal quotients of other counts (25/30, 10/12) may not count as equal.

    Args:
        hit: int64 ``(classes, G, parts)`` as from :func:`fixed_hits`.
        visible: int64 ``(classes, parts)``.
        enough: parts that fewer images show are left out if the class has others: one image may always be hit.

    Returns:
        int64 ``(classes,)``, numbers of positions.
    """
    counted = visible >= enough
    counted |= ~counted.any(1, keepdim=True) & (visible > 0)
    rates = torch.where(counted, 1.0 / visible.clamp(min=1).double(), 0.0)[:, None] * hit
    best = rates.flip(1).amax(2).argmax(1) if rates.numel() else torch.zeros(len(hit), dtype=torch.long)
    return hit.shape[1] - 1 - best
