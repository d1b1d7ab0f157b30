"""Consistency and stability as plain loops over whole numbers: slow, exact, and sharing nothing with ``metrics``.

Written from the formulas of Huang et al., ICCV 2023. Interpolation is done in Python integers, so no result here
depends on rounding: ties are exact. Also reads a CUB tree's text files.
"""

from fractions import Fraction
from functools import cache
from math import floor, lcm
from pathlib import Path

import numpy as np


def keys(distance):
    """The cubic convolution kernel (Keys 1981) with a = -3/4."""
    a, x = Fraction(-3, 4), abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return Fraction(0)


@cache
def taps(source, target):
    """For each pixel its four cells (border repeated) and their weights, scaled to whole numbers."""
    cells, weights = [], []
    for pixel in range(target):
        centre = Fraction(2 * pixel + 1, 2) * Fraction(source, target) - Fraction(1, 2)
        four = [floor(centre) + step for step in (-1, 0, 1, 2)]
        weights.append([keys(centre - cell) for cell in four])
        cells.append([min(max(cell, 0), source - 1) for cell in four])
    scale = lcm(*(weight.denominator for row in weights for weight in row))
    return np.array(cells), np.array([[int(weight * scale) for weight in row] for row in weights], dtype=object)


def upsample(cells, size):
    """The exact bicubic image of a map, times a positive whole number."""
    exact = [[Fraction(float(value)) for value in row] for row in cells]
    scale = lcm(*(value.denominator for row in exact for value in row))
    whole = np.array([[int(value * scale) for value in row] for row in exact], dtype=object)
    at, weight = taps(whole.shape[0], size)
    whole = sum(weight[:, step, None] * whole[at[:, step]] for step in range(4))
    at, weight = taps(whole.shape[1], size)
    return sum(weight[:, step] * whole[:, at[:, step]] for step in range(4))


def peak(cells, size=224):
    """Row and column of the first maximum in row-major order."""
    return _peak(tuple(tuple(float(value) for value in row) for row in cells), size)


@cache
def _peak(cells, size):
    # Of Python integers, so nothing is rounded; argmax takes the first of equals.
    return divmod(int(np.argmax(upsample(cells, size))), size)


def hit_vector(at, points, visible, half=36, size=224):
    """Which of the parts of one image are visible and in the region around ``at``."""
    row, column = at
    found = []
    for (y, x), shown in zip(points, visible, strict=True):
        inside_rows = max(0, row - half) <= y <= min(size, row + half)
        inside_columns = max(0, column - half) <= x <= min(size, column + half)
        found.append(bool(shown and inside_rows and inside_columns))
    return found


def consistency(peaks, owned, labels, points, visible, threshold=Fraction(4, 5)):
    """Score in percent, and ``{(prototype, class): consistent}``.

    ``peaks[image][prototype]`` is a (row, column); ``owned`` is a list of (prototype, class).
    """
    units = {}
    for prototype, label in owned:
        images = [i for i in range(len(labels)) if labels[i] == label]
        passes = False
        for part in range(len(points[0]) if len(points) else 0):
            hit = sum(hit_vector(peaks[i][prototype], points[i], visible[i])[part] for i in images)
            shown = sum(bool(visible[i][part]) for i in images)
            passes = passes or Fraction(hit, max(1, shown)) >= threshold
        units[prototype, label] = passes
    return 100 * sum(units.values()) / len(units), units


def stability(peaks, noisy_peaks, owned, labels, points, visible):
    """Score in percent, and ``{(prototype, class): share}`` of the pairs that have images."""
    units = {}
    for prototype, label in owned:
        images = [i for i in range(len(labels)) if labels[i] == label]
        same = 0
        for i in images:
            before = hit_vector(peaks[i][prototype], points[i], visible[i])
            after = hit_vector(noisy_peaks[i][prototype], points[i], visible[i])
            same += before == after
        if images:
            units[prototype, label] = same / len(images)
    return 100 * sum(units.values()) / len(units), units


def read_cub(root: Path, train: bool):
    """Labels, key-points (row, column) on the 224-pixel crop, and visibility of one split of a CUB tree."""

    def lines(name):
        return [line.split() for line in (root / name).read_text().splitlines()]

    wanted = [image for image, flag in lines("train_test_split.txt") if (flag == "1") == train]
    label_of = {image: int(label) - 1 for image, label in lines("image_class_labels.txt")}
    box_of = {image: [int(text.split(".")[0]) for text in box] for image, *box in lines("bounding_boxes.txt")}
    parts = len(lines("parts/parts.txt"))
    points = {image: [(0, 0)] * parts for image in box_of}
    visible = {image: [False] * parts for image in box_of}
    for image, part, x, y, shown in lines("parts/part_locs.txt"):
        if shown == "1":
            left, top, width, height = box_of[image]
            row = int(224 * (int(float(y)) - top) / height)
            points[image][int(part) - 1] = (row, int(224 * (int(float(x)) - left) / width))
            visible[image][int(part) - 1] = True
    return [label_of[i] for i in wanted], [points[i] for i in wanted], [visible[i] for i in wanted]
