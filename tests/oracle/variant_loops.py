"""The variants of consistency and stability as plain loops of EvalProtoPNet and PixPNet, apart from ``metrics``.

A unit is a list of (prototype, class): one pair, or all pairs of a prototype if its classes are pooled.
"""

from fractions import Fraction
from math import nan

from tests.oracle.plain_loops import hit_vector


def units_of(owned, pooled):
    if not pooled:
        return [[pair] for pair in owned]
    return [[pair for pair in owned if pair[0] == prototype] for prototype in sorted({p for p, _ in owned})]


def hot_centre(cells, size=224):
    """PixPNet: the centre of the first highest cell, in whole pixels."""
    best = max(value for row in cells for value in row)
    row, column = next((i, j) for i, row in enumerate(cells) for j, value in enumerate(row) if value == best)
    return round((row + 0.5) * size / len(cells)), round((column + 0.5) * size / len(cells[0]))


def pixpnet_hits(at, points, visible, names, half=36):
    """Which parts, left and right as one, share area with the region; and which are visible. Both keyed by name."""
    hit, seen = {}, {}
    for (y, x), shown, name in zip(points, visible, names, strict=True):
        key = name.replace("left ", "").replace("right ", "")
        area = 1
        for place, centre in ((y, at[0]), (x, at[1])):
            area *= max(0, min(centre + half, place + 1) - max(max(0, centre - half), place))
        seen[key] = seen.get(key, False) or bool(shown)
        hit[key] = hit.get(key, False) or bool(shown and area > 0)
    return hit, seen


def consistency(found, units, labels, threshold=Fraction(4, 5), strict=False):
    """Hard and soft score; ``found[image][prototype]`` is (hit, visible), each by part.

    ``strict``: a unit that never sees some part is inconsistent, and left out of the soft score.
    """
    hard, soft = [], []
    for unit in units:
        rates = []
        for part in next(iter(found[0].values()))[0] if found else []:
            hit = shown = 0
            for prototype, label in unit:
                for i in range(len(labels)):
                    if labels[i] == label:
                        hit += found[i][prototype][0][part]
                        shown += found[i][prototype][1][part]
            rates.append(Fraction(hit, shown) if shown else nan)
        undefined = any(rate != rate for rate in rates)
        best = max((rate for rate in rates if rate == rate), default=0)
        hard.append(best >= threshold and not (strict and undefined))
        if not undefined:
            soft.append(best)
    return 100 * sum(hard) / len(hard), 100 * float(sum(soft) / len(soft)) if soft else nan


def stability(before, after, units, labels, same):
    """Mean over units of the share of images with ``same(before, after)``; units without images are left out."""
    shares = []
    for unit in units:
        seen = [same(before[i][p], after[i][p]) for p, c in unit for i in range(len(labels)) if labels[i] == c]
        if seen:
            shares.append(sum(seen) / len(seen))
    return 100 * sum(shares) / len(shares)


def stability_v1(before, after, owned, labels):
    """Counts of hit parts are compared; the mean over a class's images and prototypes, then over classes."""
    classes = []
    for label in sorted({c for _, c in owned}):
        seen = [
            sum(before[i][p]) - sum(after[i][p]) == 0
            for p, c in owned if c == label for i in range(len(labels)) if labels[i] == label
        ]  # fmt: skip
        if seen:
            classes.append(sum(seen) / len(seen))
    return 100 * sum(classes) / len(classes)


def soft_stability(before, after, units, labels):
    """Intersection over union of the hit parts; units with an empty union in any image are left out."""
    shares = []
    for unit in units:
        seen = []
        for p, c in unit:
            for i in range(len(labels)):
                if labels[i] == c:
                    both = sum(before[i][p][part] and after[i][p][part] for part in before[i][p])
                    either = sum(before[i][p][part] or after[i][p][part] for part in before[i][p])
                    seen.append(both / either if either else nan)
        if seen and all(share == share for share in seen):
            shares.append(sum(seen) / len(seen))
    return 100 * sum(shares) / len(shares) if shares else nan


def plain_hits(at, points, visible):
    """Hit and visible parts by number, as the base definition has them."""
    return dict(enumerate(hit_vector(at, points, visible))), dict(enumerate(map(bool, visible)))
