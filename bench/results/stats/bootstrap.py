"""Bootstrap intervals of numbers that are functions of means over independent units. Nothing here reads a file.

They are bias-corrected and accelerated (BCa; Efron, JASA 1987). ``scipy.stats.bootstrap`` gives the same from the same
resamples (a test compares them); here all resamples of all columns are one product of matrices, because a report asks
for hundreds of intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.core.seeding import derive

LEVEL = 0.95
RESAMPLES = 2000

# With so many units, of which few differ, only the number of each kind is drawn.
_MANY = 256
# Up to so many counts stay in memory for the next interval over as many units; more are drawn in blocks.
_KEPT = 2**24
_BLOCK = 2**23
# Of the standard library: SciPy's take a third of a second to import, for two numbers that agree to 1e-15.
_NORMAL = NormalDist()

Array = NDArray[np.float64]


class NoInterval(ValueError):
    """Absence of an honest interval; the message has the reason."""


@dataclass(frozen=True)
class Sample:
    """Number and the units it is made of: ``combine(sum of sums / sum of weights)``.

    Attributes:
        units: ``(U,)`` their names, in ascending order.
        sums: ``(U, M)`` of each column over the rows of a unit, times their weights.
        weight: ``(U,)`` sum of the weights of a unit's rows; 0 if it has none.
        combine: means ``(..., M)`` -> ``(...)``.
        limits: smallest and largest possible value of a unit, if any.
        kind: name of the units, in the plural.
    """

    units: NDArray[np.int64]
    sums: Array
    weight: Array
    combine: Callable[[Array], Array]
    limits: tuple[float, float] | None = None
    kind: str = "units"

    @property
    def value(self) -> float:
        """Return the number itself."""
        return float(self.combine(self.sums.sum(0) / self.weight.sum()))

    def over(self, units: NDArray[np.int64]) -> Sample:
        """Return the same number, its units written among others that have no weight in it."""
        place = np.searchsorted(units, self.units)
        sums, weight = np.zeros((len(units), self.sums.shape[1])), np.zeros(len(units))
        sums[place], weight[place] = self.sums, self.weight
        return replace(self, units=units, sums=sums, weight=weight)


@dataclass(frozen=True)
class Interval:
    """Both ends, and which units they come from."""

    low: float
    high: float
    kind: str


def sample(
    units: ArrayLike,
    columns: ArrayLike,
    weight: ArrayLike | None = None,
    combine: Callable[[Array], Array] | None = None,
    limits: tuple[float, float] | None = None,
    kind: str = "units",
) -> Sample:
    """Gather rows by their units.

    Args:
        units: ``(n,)`` the unit of each row.
        columns: ``(n,)`` or ``(n, M)``.
        weight: ``(n,)``, not negative.
        combine: as in :class:`Sample`; by default the first column's mean.
        limits: as in :class:`Sample`.
        kind: as in :class:`Sample`.

    Raises:
        NoInterval: if there is no row with a weight, or a row with a weight is not finite.

    Example:
        >>> sample([4, 4, 9], [1.0, 0.0, 1.0]).weight.tolist()
        [2.0, 1.0]
    """
    values = np.asarray(columns, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    weights = np.ones(len(values)) if weight is None else np.asarray(weight, dtype=np.float64)
    kept = weights > 0
    if not kept.any():
        raise NoInterval("its table has no row that counts")
    if not (np.isfinite(values[kept]).all() and np.isfinite(weights).all()):
        raise NoInterval("its table holds numbers that are not finite")
    names, place = np.unique(np.asarray(units)[kept], return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, place, values[kept] * weights[kept, None])
    counted = np.bincount(place, weights[kept], minlength=len(names))
    return Sample(names, sums, counted, combine or _first, limits, kind)


def interval(seeds: Sequence[Sample], level: float = LEVEL, resamples: int = RESAMPLES) -> Interval:
    """Return the interval of a number, or of its mean if it was measured with several seeds.

    Each resample draws units, the same for all seeds, and of S > 1 seeds S - 1: the mean of so many has the variance
    that the mean over seeds is estimated to have (Rao and Wu, JASA 1988). With one seed the interval is not about
    training again.

    Args:
        seeds: the number with each seed.
        level: of confidence.
        resamples: how many.

    Raises:
        NoInterval: if units or resamples do not determine it.
    """
    return _interval([seeds], level, resamples)


def difference(
    one: Sequence[Sample], two: Sequence[Sample], level: float = LEVEL, resamples: int = RESAMPLES, paired: bool = False
) -> Interval:
    """Return the interval of ``one - two`` over the same units.

    Args:
        one: the first number with each seed.
        two: the second.
        level: of confidence.
        resamples: how many.
        paired: whether the seeds of both are the same ones in the same order, and are drawn together.

    Raises:
        NoInterval: if units or resamples do not determine it.
    """
    return _interval([one, two], level, resamples, paired)


def _interval(groups: Sequence[Sequence[Sample]], level: float, resamples: int, paired: bool = False) -> Interval:
    samples = together([one for group in groups for one in group])
    count, kind = len(samples[0].units), samples[0].kind
    if count < 2:
        raise NoInterval(f"it comes from one of its {kind}: there is nothing to resample")
    rows = np.concatenate([np.column_stack((one.sums, one.weight)) for one in samples], 1)
    weights = _seed_weights(tuple(len(group) for group in groups), resamples, paired)
    fixed = np.concatenate(
        [np.full(len(group), sign / len(group)) for group, sign in zip(groups, (1, -1), strict=False)]
    )

    def differ(totals: Array, seeds: Array) -> Array:
        return (_values(samples, totals) * seeds).sum(-1)

    whole = rows.sum(0)
    value = float(differ(whole, fixed))
    drawn = differ(_totals(rows, resamples), weights)
    defined = np.isfinite(drawn)
    if not defined.all():
        if (~defined).mean() > 0.01:
            raise NoInterval(f"too few of its {count} {kind} have a value: some resamples leave nothing to average")
        drawn = drawn[defined]
    if np.ptp(drawn) <= 1e-12 * max(1.0, abs(value)):
        return _alike(value, samples[0], count, level, len(groups) > 1)
    low, high = bca(drawn, value, differ(whole - rows, fixed), level)
    return Interval(low, high, kind)


def resampled(samples: Sequence[Sample], resamples: int = RESAMPLES) -> Array:
    """Return several numbers in the same resamples of their units ``(B, S)``.

    Raises:
        NoInterval: if a number has no value in some resample.
    """
    samples = together(samples)
    rows = np.concatenate([np.column_stack((one.sums, one.weight)) for one in samples], 1)
    values = _values(samples, _totals(rows, resamples))
    if not np.isfinite(values).all():
        raise NoInterval(f"too few of its {len(rows)} {samples[0].kind} have a value: some resamples have none")
    return values


def bca(drawn: Array, value: float, jackknife: Array, level: float = LEVEL) -> tuple[float, float]:
    """Return the ends of the bias-corrected and accelerated interval (Efron, JASA 1987; Efron and Tibshirani, 14.3).

    Args:
        drawn: ``(B,)`` the number in each resample.
        value: the number itself.
        jackknife: ``(U,)`` the number without each unit.
        level: of confidence.

    Raises:
        NoInterval: if the resamples lie so far on one side of the value that the interval would not hold it.
    """
    tail = (1 - level) / 2
    # Rounding must not break the ties of resamples with the value.
    near = 1e-12 * max(1.0, abs(value))
    below = (np.mean(drawn < value - near) + np.mean(drawn <= value + near)) / 2
    if not tail < below < 1 - tail:
        raise NoInterval("resampling shifts it to one side: its bias is larger than its spread")
    bias = _NORMAL.inv_cdf(below)
    jackknife = jackknife[np.isfinite(jackknife)]
    gap = jackknife.mean() - jackknife
    size = np.sqrt((gap**2).sum()) ** 3
    skew = (gap**3).sum() / (6 * size) if size > 0 else 0.0
    ends = []
    for normal in (_NORMAL.inv_cdf(tail), -_NORMAL.inv_cdf(tail)):
        shift = bias + normal
        # Beyond 1 / skew the correction turns round; the furthest resample is the end then.
        room = 1 - skew * shift
        ends.append(_NORMAL.cdf(bias + shift / room) if room > 0 else float(shift > 0))
    low, high = np.quantile(drawn, ends)
    return min(float(low), value), max(float(high), value)


def _alike(value: float, first: Sample, count: int, level: float, is_difference: bool) -> Interval:
    """Bound how rare other units can be, if all resamples are alike and resampling gives no interval.

    With confidence 0.95, at least a share q = 0.05^(1/U) of all units are like the U that were seen (the rule of
    three); the others lie somewhere between the limits.
    """
    if first.limits is None:
        units = f"all {count} {first.kind}"
        told = f"the difference is the same in {units}" if is_difference else f"{units} are alike"
        raise NoInterval(f"{told} but for rounding, so resampling shows no spread")
    low, high = first.limits
    if is_difference:
        low, high = low - high, high - low
    same = (1 - level) ** (1 / count)
    return Interval(value * same + low * (1 - same), value * same + high * (1 - same), first.kind)


def _first(means: Array) -> Array:
    return means[..., 0]


def together(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples written over the units of all of them."""
    units = samples[0].units
    for one in samples[1:]:
        units = units if one.units is units or np.array_equal(units, one.units) else np.union1d(units, one.units)
    return [one if np.array_equal(one.units, units) else one.over(units) for one in samples]


def _values(samples: Sequence[Sample], totals: Array) -> Array:
    """Compute the value of each sample ``(..., S)`` from totals ``(..., K)`` of all columns side by side."""
    found, start = [], 0
    for one in samples:
        end = start + one.sums.shape[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(one.combine(totals[..., start:end] / totals[..., end : end + 1]))
        start = end + 1
    return np.stack(found, -1)


@lru_cache(maxsize=16)
def _seed_weights(sizes: tuple[int, ...], resamples: int, paired: bool) -> Array:
    """Return the weight of each seed in each resample ``(B, seeds)``; the second group is subtracted."""
    found: list[Array] = []
    for place, size in enumerate(sizes):
        if paired and place:
            weights = -found[0]
        else:
            generator = np.random.default_rng(derive(0, "seeds", place, size, resamples))
            chosen = np.full(size, 1 / size)
            weights = (
                generator.multinomial(size - 1, chosen, resamples) / (size - 1) if size > 1 else np.ones((resamples, 1))
            )
            weights = -weights if place else weights
        found.append(weights)
    return np.concatenate(found, 1)


def _totals(rows: Array, resamples: int) -> Array:
    """Sum over the units of each resample: ``(U, K) -> (B, K)``."""
    if len(rows) >= _MANY:
        # Of images that are right or wrong it is only drawn how many there are of each.
        kinds, number = np.unique(rows, axis=0, return_counts=True)
        if len(kinds) <= len(rows) // 16:
            generator = np.random.default_rng(derive(0, "bootstrap of kinds", len(rows), resamples))
            return np.asarray(generator.multinomial(len(rows), number / len(rows), resamples) @ kinds)
    return np.concatenate([counts @ rows for counts in _draws(len(rows), resamples)])


def _draws(units: int, resamples: int) -> Iterator[Array]:
    """Yield how often each unit is in each resample, in blocks ``(b, U)``: the same for equally many units."""
    if units * resamples <= _KEPT:
        yield _kept(units, resamples)
        return
    step = max(1, _BLOCK // units)
    for start in range(0, resamples, step):
        yield _counts(units, min(step, resamples - start), start)


@lru_cache(maxsize=3)
def _kept(units: int, resamples: int) -> Array:
    return _counts(units, resamples, 0)


def _counts(units: int, resamples: int, start: int) -> Array:
    generator = np.random.default_rng(derive(0, "bootstrap", units, start))
    chosen = generator.integers(0, units, (resamples, units)) + units * np.arange(resamples)[:, None]
    return np.bincount(chosen.ravel(), minlength=units * resamples).reshape(resamples, units).astype(np.float64)
