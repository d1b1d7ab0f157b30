"""Deformable ProtoPNet cell by cell: slow, in double precision, and sharing nothing with ``baselines``.

Written from the formulas of Donnelly et al., CVPR 2022. Maps are nested lists ``[row][column][channel]``, prototypes
``[i][j][channel]``, offsets ``[row][column][8]``.
"""

from math import acos, cos, floor, sqrt


def upsampled(cells, factor):
    """Bilinear, corners not aligned, the border repeated."""
    height, width = len(cells), len(cells[0])

    def taps(target, size):
        place = max((target + 0.5) / factor - 0.5, 0.0)
        low = min(int(place), size - 1)
        return low, min(low + 1, size - 1), place - low

    result = []
    for y in range(height * factor):
        top, bottom, down = taps(y, height)
        row = []
        for x in range(width * factor):
            left, right, across = taps(x, width)
            row.append(
                [
                    (1 - down) * ((1 - across) * a + across * b) + down * ((1 - across) * c + across * d)
                    for a, b, c, d in zip(
                        cells[top][left], cells[top][right], cells[bottom][left], cells[bottom][right], strict=True
                    )
                ]
            )
        result.append(row)
    return result


def unit_cells(cells):
    """z-hat: epsilon channels, length 64 over four parts: 64 / sqrt(2 * 2) each."""
    return lengthened(cells, 64 / 2, 0.0)


def unit_prototype(prototype):
    """p-hat: epsilon channels, length 1 over four parts: 1 / sqrt(2 * 2) each."""
    return lengthened(prototype, 1 / 2, 1e-4)


def lengthened(cells, length, more):
    result = []
    for row in cells:
        new = []
        for cell in row:
            cell = [*cell, 1e-4, 1e-4]
            old = sqrt(sum(x * x for x in cell) + 1e-4) + more
            new.append([length * x / old for x in cell])
        result.append(new)
    return result


def convolved(cells, weight, bias):
    """A plain convolution with padding 1; weight ``[out][channel][row][column]``."""
    height, width, size = len(cells), len(cells[0]), len(weight[0][0])
    result = []
    for y in range(-1, height + 2 - size):
        row = []
        for x in range(-1, width + 2 - size):
            new = list(bias)
            for out, planes in enumerate(weight):
                for i in range(size):
                    for j in range(size):
                        if 0 <= y + i < height and 0 <= x + j < width:
                            new[out] += sum(planes[k][i][j] * v for k, v in enumerate(cells[y + i][x + j]))
            row.append(new)
        result.append(row)
    return result


def network_offsets(cells, first, second):
    hidden = [[[max(v, 0.0) for v in cell] for cell in row] for row in convolved(cells, *first)]
    return convolved(hidden, *second)


def places(y, x, offsets):
    """Where the four parts look from output cell (y, x), in the order of the offsets."""
    for i in range(2):
        for j in range(2):
            part = 2 * i + j
            yield i, j, y - 1 + 2 * i + offsets[2 * part], x - 1 + 2 * j + offsets[2 * part + 1]


def between(cells, y, x, power):
    """Bilinear mean of powers of the four cells around a place; zero outside."""
    low_y, low_x = floor(y), floor(x)
    result = [0.0] * len(cells[0][0])
    for row, share_y in ((low_y, 1 - (y - low_y)), (low_y + 1, y - low_y)):
        for column, share_x in ((low_x, 1 - (x - low_x)), (low_x + 1, x - low_x)):
            if 0 <= row < len(cells) and 0 <= column < len(cells[0]):
                result = [old + share_y * share_x * v**power for old, v in zip(result, cells[row][column], strict=True)]
    return result


def cosine_map(cells, offsets, prototype):
    """Cosines over 1.01 at every output cell, before the ReLU; cells are z-hat, the prototype is p-hat."""
    result = []
    for y in range(len(cells)):
        row = []
        for x in range(len(cells[0])):
            total = 0.0
            for i, j, at_y, at_x in places(y, x, offsets[y][x]):
                sample = [sqrt(v) for v in between(cells, at_y, at_x, 2)]
                total += sum(a * b for a, b in zip(sample, prototype[i][j], strict=True))
            row.append(total / (64 * 1.01))
        result.append(row)
    return result


def with_margin(cosine, margin):
    return max(cos(max(acos(cosine) - margin, 0.0)), 0.0)


def moved_patch(cells, offsets, y, x):
    """What the push copies: linearly interpolated z-hat without its two epsilon channels, ``[i][j][channel]``."""
    result = [[None, None], [None, None]]
    for i, j, at_y, at_x in places(y, x, offsets[y][x]):
        result[i][j] = between(cells, at_y, at_x, 1)[:-2]
    return result


def gram_distance(parts):
    """Sum of the squares of G - I, for one group of parts (raw channels, no epsilon channels)."""
    units = []
    for part in parts:
        length = sqrt(sum(x * x for x in part) + 1e-4) + 1e-4
        units.append([x / length for x in part])
    return sum(
        (sum(p * q for p, q in zip(a, b, strict=True)) - (m == n)) ** 2
        for m, a in enumerate(units)
        for n, b in enumerate(units)
    )
