"""Metrics as plain functions on tensors, for maps from outside this harness.

Each image has the K maps of its class's prototypes, and slot k of a class is always the same prototype. The classes in
:mod:`metrics.consistency` and :mod:`metrics.stability` stream batches, know shared prototypes and keep the tables that
intervals need; on such maps they give the same numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metrics.consistency import consistent
from metrics.parts import HALF, hits, to_canvas
from metrics.peaks import CANVAS, peaks


def part_hits(
    maps: Tensor, keypoints: Tensor, visible: Tensor, image_size: int = CANVAS, half: int = HALF, size: int = CANVAS
) -> Tensor:
    """Find the annotated parts in the region around each map's peak (Huang et al. 2023).

    Args:
        maps: ``(N, K, h, w)`` presence maps, larger = more present; upsampled bicubically to the canvas.
        keypoints: ``(N, parts, 2)`` row and column in pixels of the square image.
        visible: bool ``(N, parts)``.
        image_size: side of the image in pixels.
        half: half the side of the region in pixels of the canvas.
        size: side of the canvas in pixels.

    Returns:
        bool ``(N, K, parts)``.

    Example:
        >>> maps = torch.zeros(1, 1, 7, 7)
        >>> maps[0, 0, 3, 3] = 1.0
        >>> part_hits(maps, torch.tensor([[[112.0, 112.0], [10.0, 10.0]]]), torch.ones(1, 2, dtype=torch.bool))
        tensor([[[ True, False]]])
    """
    return hits(peaks(maps, size), to_canvas(keypoints.double(), image_size, size), visible, half, size)


def consistency_score(
    maps: Tensor,
    labels: Tensor,
    keypoints: Tensor,
    visible: Tensor,
    image_size: int = CANVAS,
    threshold: float = 0.8,
    classes: int | None = None,
) -> float:
    """Compute the share of prototypes that hit one and the same part in most images of their class, in percent.

    Args:
        maps: ``(N, K, h, w)`` maps of the prototypes of each image's class.
        labels: int64 ``(N,)`` classes of the images.
        keypoints: ``(N, parts, 2)`` row and column in pixels of the square image.
        visible: bool ``(N, parts)``.
        image_size: side of the image in pixels.
        threshold: share of the images showing the part in which it must be hit.
        classes: number of classes, default ``labels.max() + 1``; a class without images counts as not consistent.

    Returns:
        The percentage over all (class, prototype).

    Raises:
        ValueError: if there are no images.

    Example:
        >>> maps = torch.zeros(2, 1, 7, 7)
        >>> maps[:, 0, 3, 3] = 1.0
        >>> points, seen = torch.full((2, 1, 2), 112.0), torch.ones(2, 1, dtype=torch.bool)
        >>> consistency_score(maps, torch.tensor([0, 0]), points, seen)
        100.0
    """
    if not len(maps):
        raise ValueError("consistency of no images is not defined")
    hit = part_hits(maps, keypoints, visible, image_size)
    count = int(labels.max()) + 1 if classes is None else classes
    counted = torch.zeros(count, *hit.shape[1:], dtype=torch.long, device=hit.device)
    hit_in = counted.index_add(0, labels, hit.long())
    shown_in = counted.index_add(0, labels, visible[:, None].expand_as(hit).long())
    passed = consistent(hit_in, shown_in, threshold)
    return 100 * int(passed.sum()) / passed.numel()


def stability_score(
    maps: Tensor, noisy_maps: Tensor, labels: Tensor, keypoints: Tensor, visible: Tensor, image_size: int = CANVAS
) -> float:
    """Compute the mean share of images whose part hits are all the same on a noisy copy, in percent.

    Args:
        maps: ``(N, K, h, w)`` maps of the prototypes of each image's class.
        noisy_maps: ``(N, K, h, w)`` maps of noisy copies of the images (:func:`metrics.noise.gaussian_noise`).
        labels: int64 ``(N,)`` classes of the images.
        keypoints: ``(N, parts, 2)`` row and column in pixels of the square image.
        visible: bool ``(N, parts)``.
        image_size: side of the image in pixels.

    Returns:
        The percentage, averaged over images within each class, then over all (class, prototype) with images.

    Raises:
        ValueError: if there are no images.

    Example:
        >>> maps = torch.rand(4, 2, 7, 7)
        >>> points, seen = torch.full((4, 3, 2), 112.0), torch.ones(4, 3, dtype=torch.bool)
        >>> stability_score(maps, maps, torch.tensor([0, 0, 1, 1]), points, seen)
        100.0
    """
    if not len(maps):
        raise ValueError("stability of no images is not defined")
    clean, noisy = (part_hits(each, keypoints, visible, image_size) for each in (maps, noisy_maps))
    same = (clean == noisy).all(2).double()
    present, inverse = labels.unique(return_inverse=True)
    totals = torch.zeros(len(present), same.shape[1], dtype=torch.float64, device=same.device)
    images = torch.bincount(inverse, minlength=len(present))
    return 100 * float((totals.index_add(0, inverse, same) / images[:, None]).mean())
