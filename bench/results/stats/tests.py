"""Tests between methods over the same units, and their correction if there are many. Nothing here reads a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from bench.core.seeding import derive
from bench.results.stats.bootstrap import Array, Sample, together

SWAPS = 9999
EXACT = 13
"""Up to so many units that differ, all 2^n swaps are tried instead of a random choice of them."""

# Signs that are drawn at a time.
_BLOCK = 2**23


def swap_test(one: Sequence[Sample], two: Sequence[Sample], swaps: int = SWAPS) -> float:
    """Compute the two-sided p value of a difference: how often it is as large with random swaps in each unit.

    If both have the same value in a unit, swapping changes nothing. If all units that differ do so by as much, as
    predictions of one seed that are right or wrong, only the number of swaps counts, which is binomial: this is
    McNemar's exact test. Several seeds are averaged in every unit first: it is a test of the networks as they were
    trained.

    Args:
        one: the first number with each seed.
        two: the second.
        swaps: number of random swaps, if neither few units differ nor all by as much.
    """
    total, gap, combine = _swappable(one, two)
    if not len(gap):
        return 1.0

    def apart(change: Array) -> Array:
        first, second = (total + change) / 2, (total - change) / 2
        return np.abs(combine(first[..., :-1] / first[..., -1:]) - combine(second[..., :-1] / second[..., -1:]))

    found = float(apart(gap.sum(0)))
    least = found - 1e-9 * max(1.0, found)

    def reached(change: Array) -> Array:
        # A swap that leaves one side without weight has no difference: it counts against us.
        return ~(apart(change) < least)

    count = len(gap)
    way = np.sign(gap @ gap[0])
    if np.allclose(gap, way[:, None] * gap[0], rtol=1e-9, atol=0):
        turned = np.arange(count + 1)
        large = reached((count - 2 * turned)[:, None] * gap[0])
        return max(float(_binomial(count)[large].sum()), float(np.finfo(float).tiny))
    if count <= EXACT:
        every = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float(reached((1.0 - 2.0 * every) @ gap).mean())
    generator = np.random.default_rng(derive(0, "swaps", count, swaps))
    hits, step = 0, max(1, _BLOCK // count)
    for start in range(0, swaps, step):
        size = (min(step, swaps - start), count)
        signs = 1.0 - 2.0 * generator.integers(0, 2, size, dtype=np.int8)
        hits += int(np.count_nonzero(reached(signs @ gap)))
    return (hits + 1) / (swaps + 1)


def alike(one: Sequence[Sample], two: Sequence[Sample]) -> bool:
    """Return whether both have the same value in every unit."""
    return not len(_swappable(one, two)[1])


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for many comparisons by Holm's step-down procedure (Scandinavian Journal of Statistics, 1979).

    The chance of at least one false difference among all of them stays below the level under any dependence.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    steps = (len(p) - np.arange(len(p))) * p[order]
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(p) else steps
    return [float(value) for value in corrected]


def mean_ranks(values: Array, higher_is_better: bool) -> Array:
    """Return the mean rank of m methods over blocks: ``(blocks, m) -> (m,)``; 1 is best, equals share a rank."""
    from scipy import stats  # two seconds, which only `compare` should wait for

    ranks = stats.rankdata(-values if higher_is_better else values, axis=1)
    return np.asarray(ranks.mean(0))


def friedman(values: Array) -> float | None:
    """Compute the p value of Friedman's test for ``(blocks, m)``; ``None`` for fewer than 3 methods or 5 blocks."""
    if len(values) < 5 or values.shape[1] < 3:
        return None
    if np.ptp(values, axis=1).max() == 0:
        return 1.0  # all are equal everywhere: no ranks differ
    from scipy import stats

    return float(stats.friedmanchisquare(*values.T).pvalue)


def critical_difference(methods: int, blocks: int, level: float = 0.05) -> float:
    """Compute the least difference of two mean ranks that Nemenyi's test shows, for all pairs of methods together.

    Demšar, JMLR 7 (2006), section 3.2.2: q sqrt(k (k + 1) / (6 N)), q from the studentized range, divided by sqrt 2.

    Args:
        methods: k.
        blocks: N.
        level: chance of at least one false difference.
    """
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(1 - level, methods, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * blocks))


def signed_rank(differences: ArrayLike) -> float | None:
    """Compute the p value of Wilcoxon's signed-rank test over blocks; ``None`` with fewer than six."""
    gaps = np.asarray(differences, dtype=np.float64)
    # Of five blocks the smallest possible p is 2 / 2^5 = 0.0625.
    if len(gaps) < 6:
        return None
    from scipy import stats

    return float(stats.wilcoxon(gaps).pvalue) if gaps.any() else 1.0


def _binomial(count: int) -> Array:
    """Return the chance of 0 to ``count`` heads in so many throws of a coin: ``(count + 1,)``."""
    # Of the standard library: a comparison of two methods imports no SciPy.
    logs = np.array([math.lgamma(heads + 1) for heads in range(count + 1)])
    return np.asarray(np.exp(logs[-1] - logs - logs[::-1] - count * np.log(2)))


def _swappable(one: Sequence[Sample], two: Sequence[Sample]) -> tuple[Array, Array, Callable[[Array], Array]]:
    """Return the totals of both ``(M + 1,)``, the difference in each unit that differs, and the function of means."""
    samples = together([*one, *two])
    first, second = _normalised(samples[: len(one)]), _normalised(samples[len(one) :])
    total, gap = first + second, first - second
    return total.sum(0), gap[np.abs(gap).max(1) > 1e-12 * np.abs(total).max()], samples[0].combine


def _normalised(samples: Sequence[Sample]) -> Array:
    """Return sums and weight of each unit ``(U, M + 1)``, the weights being 1 in the mean; the mean over seeds."""
    rows = [np.column_stack((one.sums, one.weight)) / one.weight.mean() for one in samples]
    return np.asarray(np.mean(rows, axis=0))
