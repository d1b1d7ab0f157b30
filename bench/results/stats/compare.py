"""Comparison of every two methods in every metric, data set and backbone, from the store alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from statistics import fmean

import numpy as np

from bench.core.errors import RequestError
from bench.results.cell_record import CellRecord
from bench.results.result_set import wanted_metrics
from bench.results.sides import chosen_cells, sides
from bench.results.stats.bootstrap import RESAMPLES
from bench.results.stats.contest import Comparison, Contest, Ranking, Tally
from bench.results.stats.interval_cache import ContestCache
from bench.results.stats.pairwise import Judge
from bench.results.stats.tests import EXACT, SWAPS, friedman, holm, mean_ranks, signed_rank
from bench.results.store import Store

ALPHA = 0.05


def compare(
    store: Store,
    methods: Sequence[str],
    metrics: Sequence[str] = (),
    stamp: str | None = None,
    suite: str | None = None,
    first_only: bool = False,
) -> Contest:
    """Compare every two of the methods in every metric, on every data set and backbone.

    Args:
        store: contains the results.
        methods: labels as tables show them, two or more.
        metrics: names (``METRIC.NUMBER`` for a further number) or groups; by default the values of all metrics.
        stamp: of a run to take cells from.
        suite: whose newest run to take cells from.
        first_only: compare the first method with each of the others, and not those with each other: one question, and
            fewer tests to correct for.

    Raises:
        RequestError: for methods or metrics without results.
    """
    _check_different(methods)
    cells, origin = chosen_cells(store, methods, stamp, suite, metrics)
    # The cells are chosen first: a bad request is refused as if nothing were kept.
    kept = ContestCache(store, cells, [methods, metrics, origin, first_only])
    contest = kept.read()
    if contest is None:
        contest = compare_cells(store, cells, origin, methods, metrics, first_only)
        kept.write(contest)
    return contest


def _check_different(methods: Sequence[str]) -> None:
    if len(set(methods)) < 2 or len(set(methods)) < len(methods):
        raise RequestError("name two or more different methods, for example: python -m bench compare ours protopnet")


def compare_cells(
    store: Store,
    cells: Sequence[CellRecord],
    origin: str,
    methods: Sequence[str],
    metrics: Sequence[str] = (),
    first_only: bool = False,
) -> Contest:
    """Compare methods in the given cells, whose origin in words ends the facts; for the rest see :func:`compare`."""
    _check_different(methods)
    known = {label: sides(cells, label) for label in methods}
    compared = [cell for found in known.values() for side in found for cell in side.cells]
    wanted = wanted_metrics(compared, metrics, origin, numbers=True)
    judge = Judge(store)
    pairs = product(methods[:1], methods[1:]) if first_only else combinations(methods, 2)
    found = [comparison for one, two in pairs for comparison in judge.pair(known[one], known[two], wanted)]
    found = corrected_over_all(found)
    tests = sum(comparison.p is not None for comparison in found)
    data = dict.fromkeys(f"data: {', '.join(side.first.view.values())}" for own in known.values() for side in own)
    definitions = "; ".join(dict.fromkeys(one.definition for one in found if one.p is not None))
    facts = (*explained(found, tests), *([f"metrics: {definitions}"] if definitions else []), *data, origin)
    rankings = tuple(_rankings(found, methods)) if len(methods) > 2 and not first_only else ()
    return Contest(tuple(methods), tuple(found), rankings, tuple(_tallies(found)), facts)


def corrected_over_all(found: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with p values corrected over all tests, and their verdicts in words."""
    tested = [place for place, one in enumerate(found) if one.p is not None]
    corrected = dict(zip(tested, holm([found[place].p or 0.0 for place in tested]), strict=True))
    return [
        _with_verdict(replace(one, corrected=corrected[place])) if place in corrected else one
        for place, one in enumerate(found)
    ]


def _with_verdict(one: Comparison) -> Comparison:
    if one.verdict or one.difference is None or one.corrected is None:
        return one
    holds = one.low is None or one.high is None or not one.low <= 0 <= one.high
    if one.corrected >= ALPHA or not holds:
        return replace(one, verdict="no difference shown")
    if one.higher_is_better is None:
        return replace(one, verdict=f"{one.methods[one.difference < 0]} higher")
    return replace(one, verdict=f"{one.methods[(one.difference < 0) == one.higher_is_better]} better")


def explained(found: Sequence[Comparison], tests: int, families: str = "") -> list[str]:
    """Explain how the numbers were made, for the reader of a table.

    Args:
        found: the comparisons.
        tests: how many p values were corrected together, at most.
        families: of those p values, in words; by default all.
    """
    if not tests:
        return []
    families = families or f"the {tests} test{'s' * (tests > 1)} here"
    lines = [
        "difference: first minus second; interval: 95 %, BCa bootstrap over the units that are named, "
        f"{RESAMPLES} resamples",
        f"p: both methods swapped at random within units, {SWAPS} times (exact where at most {EXACT} units differ, or "
        "all by as much)",
        f"Holm: p corrected for {families}; better: below {ALPHA}, and 0 outside the interval where there is one",
    ]
    if tests / (SWAPS + 1) >= ALPHA:
        lines.append(
            f"so many tests need a smaller p than {SWAPS} random swaps can give: name fewer --metrics or methods"
        )
    several = any(len(seeds) > 1 for one in found for seeds in one.seeds)
    single = any(len(seeds) == 1 for one in found for seeds in one.seeds)
    if several:
        lines.append(
            "seeds: mean ± standard deviation (n - 1); intervals resample units and seeds, p is of units alone"
        )
    if single:
        lines.append("one seed: whether training again would give the same is not tested")
    return lines


def _rankings(found: Sequence[Comparison], methods: Sequence[str]) -> Iterator[Ranking]:
    """Rank the means over the seeds that all methods share in a place: a single pair may have had others."""
    for metric, own in _by_metric(found):
        if own[0].higher_is_better is None:
            continue
        places: dict[tuple[str, ...], dict[str, Mapping[int, float]]] = {}
        for one in own:
            places.setdefault((*one.place, one.definition), {}).update(zip(one.methods, one.by_seed, strict=True))
        rows = []
        for values in places.values():
            if len(values) == len(methods):
                common = set.intersection(*(set(values[label]) for label in methods))
                rows.append(
                    [fmean(value for seed, value in values[label].items() if seed in common or not common)
                     for label in methods]
                )  # fmt: skip
        if rows:
            table = np.asarray(rows)
            ranks = mean_ranks(table, own[0].higher_is_better)
            yield Ranking(metric, len(rows), tuple(float(rank) for rank in ranks), friedman(table))


def _tallies(found: Sequence[Comparison]) -> Iterator[Tally]:
    for methods in dict.fromkeys(one.methods for one in found):
        for metric, own in _by_metric([one for one in found if one.methods == methods]):
            gaps = [one.difference for one in own if one.difference is not None]
            if own[0].higher_is_better is None or len(gaps) < 2:
                continue
            signed = np.asarray(gaps) * (1 if own[0].higher_is_better else -1)
            ahead = (int((signed > 0).sum()), int((signed < 0).sum()))
            yield Tally(methods, metric, len(gaps), ahead, signed_rank(signed))


def _by_metric(found: Sequence[Comparison]) -> Iterator[tuple[str, list[Comparison]]]:
    known = [one for one in found if one.difference is not None]
    for metric in dict.fromkeys(one.metric for one in known):
        yield metric, [one for one in known if one.metric == metric]
