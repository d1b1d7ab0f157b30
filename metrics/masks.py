"""Object masks and class maps on the pixels of an image: the arithmetic of all mask scores."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.contract import Aggregate, NotApplicable, Observation, Samples, share
from metrics.parts import class_map
from metrics.peaks import matrix_on

GREY = 200
"""Grey level above which a pixel is the object: ProtoNonParam's threshold for CUB's masks. A pixel's level there is the
share of the annotators that saw the bird."""


def require_objects(samples: Samples) -> None:
    """Raise :class:`NotApplicable` if nothing tells the object from the rest of an image."""
    if getattr(samples, "masks", None) is None and not samples.protocol.startswith("full"):
        raise NotApplicable(
            "the data set has no object masks, and images are cut to the box, so nothing is outside: "
            "set protocol.crop=full to take boxes for masks"
        )


def in_boxes(boxes: Tensor, side: int) -> Tensor:
    """Return which pixels have their middle in a box ``(top, left, bottom, right)``: bool ``(N, side, side)``.

    Example:
        >>> in_boxes(torch.tensor([[0.0, 0.0, 1.0, 2.0]]), 2).int().tolist()
        [[[1, 1], [0, 0]]]
    """
    middle = torch.arange(side, device=boxes.device) + 0.5
    rows, columns = ((low[:, None] < middle) & (middle < high[:, None]) for low, high in (
        (boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])
    ))  # fmt: skip
    return rows[:, :, None] & columns[:, None]


def objects(seen: Observation, grey: int = GREY) -> Tensor:
    """Return the pixels of each image's object, or of its box if the data set has no masks: bool ``(N, H, W)``."""

    def look() -> Tensor:
        return in_boxes(seen.boxes, seen.size) if seen.masks is None else seen.masks > grey

    return seen.once(("objects", grey), look)


def measurable(inside: Tensor) -> Tensor:
    """Return which images have pixels of the object and others: bool ``(N,)``."""
    return inside.flatten(1).any(1) & ~inside.flatten(1).all(1)


def on_pixels(maps: Tensor, side: int) -> Tensor:
    """Return maps ``(n, h, w)`` enlarged bicubically: float64 ``(n, side, side)``."""
    down, across = (matrix_on(maps.device, cells, side) for cells in maps.shape[1:])
    return down @ maps.double() @ across.T


def class_pixels(seen: Observation) -> Tensor:
    """Return :func:`metrics.parts.class_map` on the image's pixels: float64 ``(N, H, W)``."""
    return seen.once("class pixels", lambda: on_pixels(class_map(seen), seen.size))


def high(pixels: Tensor, threshold: float) -> Tensor:
    """Return which pixels reach a share of the way from a map's minimum to its maximum; none of a constant map.

    Args:
        pixels: ``(..., H, W)``.
        threshold: above 0.

    Returns:
        bool ``(..., H, W)``.
    """
    low, top = pixels.amin((-2, -1), keepdim=True), pixels.amax((-2, -1), keepdim=True)
    return (pixels >= low + threshold * (top - low)) & (top > low)


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Return the intersection over union of regions, bool ``(N, H, W)``, that are not both empty: float64 ``(N,)``.

    Example:
        >>> iou(torch.tensor([[[True, True]]]), torch.tensor([[[True, False]]])).tolist()
        [0.5]
    """
    return (one & other).sum((1, 2)).double() / (one | other).sum((1, 2))


def mean_of(values: Tensor, region: Tensor) -> Tensor:
    """Return the mean of pixels ``(N, H, W)`` over a region of each image that is not empty: float64 ``(N,)``."""
    return (values * region).sum((1, 2)).double() / region.sum((1, 2))


def described(seen: Observation, inside: Tensor) -> dict[str, Tensor]:
    """Return the columns with which all tables of mask scores begin, given each image's :func:`objects`."""
    return {
        "index": seen.index,
        "label": seen.labels,
        # The score of a map that is high everywhere, and whether boxes were taken for masks.
        "area": inside.double().mean((1, 2)),
        "boxes": torch.full_like(seen.index, seen.masks is None),
    }


def described_aggregates() -> dict[str, Aggregate | str]:
    """Return the aggregates of :func:`described`."""
    return {name: share("image", name, "index") for name in ("area", "boxes")}
