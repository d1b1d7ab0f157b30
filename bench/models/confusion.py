"""How a classifier's answers fit the labels that were given with the images, or another order of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

# Accuracy this unlikely for a classifier that knows something is chance.
CHANCE_LEVEL = 1e-6

# Accuracy that any classifier worth looking at has, however many classes there are.
_LEAST = 0.05

# Another order is taken for the right one where less than this speaks for its being better by luck.
ORDER_LEVEL = 1e-3

# How many times more often another order must be right where the two differ: a confused pair of classes is not.
_TIMES = 3

# Classes up to which the best assignment is looked for; its matrix is dense.
_MOST_ASSIGNED = 5000


@dataclass(frozen=True)
class Fit:
    """What was found out about the labels.

    Attributes:
        accuracy: share of images whose answer is their label.
        chance: one over the number of classes.
        images: how many there were.
        near_chance: whether the accuracy is that of a classifier that knows nothing, or next to it (see :func:`judge`).
        at_chance: whether there are enough images to say so for sure.
        order: the name of the order that fits; ``best`` where only the images say which; ``""``: none is better.
        rows: row of the classifier for each label in that order, -1 for none; ``None`` where none is better.
        reached: the accuracy in that order.
    """

    accuracy: float
    chance: float
    images: int
    near_chance: bool
    at_chance: bool
    order: str = ""
    rows: Numbers | None = None
    reached: float = 0.0


def judge(
    labels: Sequence[int], answers: Sequence[int], classes: int, orders: Mapping[str, Sequence[int]] | None = None
) -> Fit:
    """Judge labels by the answers of a classifier that is meant to know them.

    *Chance.* Accuracy is near chance below ``u = max(min(2 / C, (1 + 1 / C) / 2), 0.05)``: twice the chance or, with
    few classes, half way to 1, and never less than 5 %. It is at chance for sure where
    ``P(Binomial(n, u) <= right) < 1e-6``: a classifier that knows something is not wrong so often. A few images of a
    few classes cannot show that: 9 of 2 classes, 60 of 30.

    *Order.* An order is better where it is right on at least three times as many of the images on which exactly one of
    the two is right, and a sign test on these says so: ``P(Binomial(b + c, 1/2) >= b) < 1e-3``, divided by the number
    of orders that were looked at. Orders that were named before the images were seen are tested on all images. The best
    one-to-one assignment of answers to labels is chosen on every other image of each class and tested on the rest, so
    that no order can win by having been picked.

    Args:
        labels: of n images, from 0.
        answers: row of the largest logit of each.
        classes: C, rows of the classifier.
        orders: name -> row of each label; rows beyond the classifier mean none.

    Returns:
        What was found.
    """
    y, p = np.asarray(labels, np.int64), np.asarray(answers, np.int64)
    n, right = len(y), y == p
    chance = 1 / classes
    if n == 0 or classes < 2:
        return Fit(float(right.mean()) if n else 0.0, chance, n, False, False)
    useful = max(min(2 * chance, (1 + chance) / 2), _LEAST)
    near = right.mean() < useful
    at = bool(near and _binomial().cdf(right.sum(), n, useful) < CHANCE_LEVEL)
    fit = Fit(float(right.mean()), chance, n, bool(near), at)
    named = {name: _rows(rows, classes) for name, rows in (orders or {}).items()}
    everything = np.ones(n, bool)
    better = {name: rows for name, rows in named.items() if _better(y, p, rows, everything, len(named))}
    if classes <= _MOST_ASSIGNED:
        second = _second(y)
        rows = _assigned(y[~second], p[~second], classes)
        if _better(y, p, rows, second, 1):
            # Chosen again on all images: more of them, fewer mistakes.
            better["best"] = _assigned(y, p, classes)
    if not better:
        return fit
    # Of those that are right as often, the first: named orders go before the best.
    name = max(better, key=lambda name: (better[name][y] == p).mean())
    reached = float((better[name][y] == p).mean())
    return Fit(fit.accuracy, chance, n, fit.near_chance, fit.at_chance, name, better[name], reached)


def _rows(rows: Sequence[int], classes: int) -> Numbers:
    given = np.asarray(rows, np.int64)
    return np.where((given >= 0) & (given < classes), given, -1)


def _better(y: Numbers, p: Numbers, rows: Numbers, where: NDArray[np.bool_], orders: int) -> bool:
    """Whether the order is right far more often than the labels, on the images ``where``."""
    other, own = (rows[y] == p)[where], (y == p)[where]
    b, c = int((other & ~own).sum()), int((own & ~other).sum())
    return b >= _TIMES * c and orders * _binomial().sf(b - 1, b + c, 0.5) < ORDER_LEVEL


def _second(y: Numbers) -> NDArray[np.bool_]:
    """Every other image of each class: the second, the fourth, ..."""
    order = np.argsort(y, kind="stable")
    starts = np.searchsorted(y[order], y[order])
    second = np.empty(len(y), bool)
    second[order] = (np.arange(len(y)) - starts) % 2 == 1
    return second


def _assigned(y: Numbers, p: Numbers, classes: int) -> Numbers:
    """The one-to-one assignment of rows to labels that is right most often; ties go to the labels as they are."""
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((classes, classes))
    np.add.at(counts, (y, p), 1)
    counts[np.diag_indices(classes)] += 0.5 / classes
    rows: Numbers = linear_sum_assignment(counts, maximize=True)[1]
    return rows


def _binomial() -> Any:
    from scipy.stats import binom  # most of a second, which every cell would wait for and hardly one needs

    return binom
