"""Scores of maps against masks as sets of pixels, written from their definitions; shares nothing with ``metrics``."""

import numpy as np

from tests.oracle import plain_loops


def enlarged(cells, size=224):
    """The bicubic image of a map: four taps along the rows, then along the columns."""
    image = np.array(cells, dtype=float)
    for _ in range(2):
        at, weight = plain_loops.taps(len(image), size)
        image = sum(
            (weight[:, step] / weight.sum(1)).astype(float)[:, None] * image[at[:, step]] for step in range(4)
        ).T
    return image


def pixels_of(chosen):
    """The set of pixels that are true."""
    return {(int(y), int(x)) for y, x in zip(*np.nonzero(chosen), strict=True)}


def high(image, threshold):
    """The pixels that reach a share of the way from the minimum to the maximum."""
    low, top = float(image.min()), float(image.max())
    return {(y, x) for y, row in enumerate(image.tolist()) for x, value in enumerate(row)
            if low < top and value >= low + threshold * (top - low)}  # fmt: skip


def in_box(box, size=224):
    """The pixels whose middle is in a box."""
    top, left, bottom, right = box
    return {(y, x) for y in range(size) for x in range(size) if top < y + 0.5 < bottom and left < x + 0.5 < right}


def iou(one, other):
    """Intersection over union of two sets of pixels."""
    return len(one & other) / len(one | other)


def mean(image, where):
    """Mean over a set of pixels."""
    return sum(image[at] for at in where) / len(where)
