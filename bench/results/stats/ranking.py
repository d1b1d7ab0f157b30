"""Mean ranks of methods over data sets, backbones and seeds, and how often each is best in resamples of them.

Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006), sections 3.2.2 and 3.2.3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from bench.core import registry
from bench.core.errors import RequestError
from bench.core.seeding import derive
from bench.results.aggregate import SeedGroup
from bench.results.cell_record import CellRecord
from bench.results.result_set import ResultSet, wanted_metrics
from bench.results.stats.bootstrap import RESAMPLES, NoInterval, Sample, resampled
from bench.results.stats.tests import critical_difference, friedman, mean_ranks
from bench.results.stats.units import Items
from bench.results.store import Store

_FEWEST_METHODS, _FEWEST_BLOCKS = 3, 2
# Rounding must not decide between methods with the same number.
_DIGITS = 9

Array = NDArray[np.float64]
Block = tuple[str, str, int]
"""Data as they are seen, backbone, seed."""


@dataclass(frozen=True)
class Blocks:
    """Values of methods in blocks that all of them have.

    Attributes:
        metric: its name.
        higher_is_better: direction of the metric.
        methods: labels of m methods.
        blocks: B blocks, in order.
        cells: the cell of each method in each block.
        left: methods that not all of the blocks have.
    """

    metric: str
    higher_is_better: bool
    methods: tuple[str, ...]
    blocks: tuple[Block, ...]
    cells: tuple[tuple[CellRecord, ...], ...]
    left: tuple[str, ...]

    @property
    def values(self) -> Array:
        """Values ``(B, m)``."""
        return np.asarray([[cell.score(self.metric)[1] for cell in row] for row in self.cells], dtype=np.float64)

    @property
    def places(self) -> Iterator[tuple[Block, list[tuple[CellRecord, ...]]]]:
        """First block and cells of each data set with each backbone, a row of cells for each seed."""
        for _, pairs in groupby(zip(self.blocks, self.cells, strict=True), key=lambda pair: pair[0][:2]):
            members = list(pairs)
            yield members[0][0], [cells for _, cells in members]

    @property
    def tables(self) -> list[Array]:
        """Values ``(seeds, m)`` of each place, in the order of :attr:`places`."""
        return np.split(self.values, np.cumsum([len(rows) for _, rows in self.places])[:-1])


@dataclass(frozen=True)
class ResampledRanking:
    """Mean ranks in one metric, and their spread in resamples; tuples have an item for each method, the best first.

    Attributes:
        blocks: what was ranked.
        methods: labels.
        ranks: mean rank; 1 is best.
        ends: both ends of the mean rank's 95 % percentile interval, with units and seeds drawn.
        best: share of resamples in which the method has the best mean rank, with units and seeds drawn.
        best_units: the same with units drawn and the seeds as they are.
        best_seeds: the same with seeds drawn and the units as they are.
        kind: the units; empty if they cannot be drawn.
        reason: why they cannot.
        gap: critical difference of two mean ranks (Nemenyi, 0.05).
        p: of Friedman's test, from five blocks on.
    """

    blocks: Blocks
    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    ends: tuple[tuple[float, float], ...]
    best: tuple[float, ...]
    best_units: tuple[float, ...] | None
    best_seeds: tuple[float, ...]
    kind: str
    reason: str
    gap: float
    p: float | None


def ranked(
    store: Store, methods: Sequence[str] = (), metrics: Sequence[str] = (), suites: Sequence[str] = ()
) -> list[ResampledRanking]:
    """Return the ranking of methods in each metric.

    Args:
        store: contains the results.
        methods: labels; by default as many as share blocks.
        metrics: names or groups; by default the usual ones.
        suites: whose cells count; by default all.

    Raises:
        RequestError: for an unknown suite or metric, or if no three methods share two blocks.
    """
    cells = ResultSet.of(store).required().of_suites(suites)
    found = chosen_blocks(cells, wanted_metrics(cells, metrics, f"in {store.root}", usual=True), methods)
    if not found:
        among = f" of {', '.join(methods)}" if methods else ""
        raise RequestError(
            f"no metric has values of three methods{among} in the same two blocks (data set, backbone, seed): "
            "`python -m bench report` shows what was measured"
        )
    return [resampled_ranking(store, blocks) for blocks in found]


def chosen_blocks(cells: ResultSet, metrics: Sequence[str], methods: Sequence[str] = ()) -> list[Blocks]:
    """Return the blocks of each metric that has some, of methods as in :func:`ranked`.

    Raises:
        RequestError: for a method without results.
    """
    tables = {metric: cells.groups([metric]) for metric in metrics}
    known = {row.label for groups in tables.values() for group in groups for row in group.rows}
    for label in methods:
        if label not in known:
            raise RequestError(f"no result of {registry.quoted(label)}{registry.nearest(label, known)}")
    found = (shared_blocks([group.rows for group in groups], metric, methods) for metric, groups in tables.items())
    return [blocks for blocks in found if blocks is not None]


def shared_blocks(tables: Iterable[Sequence[SeedGroup]], metric: str, methods: Sequence[str] = ()) -> Blocks | None:
    """Return the methods and blocks with most values of a metric; ``None`` with fewer than 3 methods or 2 blocks.

    Only methods in the settings of their recipes take part.

    Args:
        tables: rows of tables, each about other data or another protocol.
        metric: its name.
        methods: labels of those that have to take part; by default as many as share blocks.
    """
    found: dict[str, dict[Block, CellRecord]] = defaultdict(dict)
    higher = True
    for number, rows in enumerate(tables):
        for row in rows:
            if row.role == "method" and row.first.plain and (not methods or row.label in methods):
                for seed, cell in row.speaking(metric).items():
                    if cell.score(metric)[0] == "ok":
                        higher = bool(cell.spec["metrics"][metric].get("higher_is_better", True))
                        found[row.label][f"{number}: {' · '.join(cell.view.values())}", row.backbone, seed] = cell
    choices = _choices(found, len(set(methods)) or _FEWEST_METHODS)
    # Comparisons with the best method that the table allows: more methods share fewer blocks.
    best = max(choices, key=lambda one: ((len(one[0]) - 1) * len(one[1]), len(one[0])), default=None)
    if best is None:
        return None
    names, blocks = best
    cells = tuple(tuple(found[name][block] for name in names) for block in blocks)
    return Blocks(
        metric, higher, tuple(names), tuple(blocks), cells, tuple(name for name in found if name not in names)
    )


def _choices(values: dict[str, dict[Block, CellRecord]], fewest: int) -> Iterator[tuple[list[str], list[Block]]]:
    """Yield methods and the blocks that all of them have: more methods share fewer blocks."""
    ordered = sorted(values, key=lambda name: -len(values[name]))
    for count in range(fewest, len(ordered) + 1):
        methods = [name for name in values if name in ordered[:count]]
        shared = sorted(set.intersection(*(set(values[name]) for name in methods)))
        if len(shared) >= _FEWEST_BLOCKS:
            yield methods, shared


def resampled_ranking(store: Store, blocks: Blocks, resamples: int = RESAMPLES) -> ResampledRanking:
    """Rank methods in each block, and again in resamples of the test images or classes and of the seeds.

    Each resample draws the units of a metric, the same for all methods and seeds, and of S > 1 seeds of a place S - 1,
    the same for all methods (Rao and Wu, JASA 1988, as intervals do). Equals share a rank, and the first place.
    """
    try:
        kind, drawn, reason = *_drawn(store, blocks, resamples), ""
    except NoInterval as error:
        kind, drawn, reason = "", None, str(error)
    fixed, seeds = [values[None] for values in blocks.tables], _seeds(blocks, resamples)
    both = _ranks(blocks, drawn or fixed, seeds)
    ranks = mean_ranks(np.round(blocks.values, _DIGITS), blocks.higher_is_better)
    order = np.argsort(ranks, kind="stable")
    alone = [np.full((1, len(values)), 1 / len(values)) for values in blocks.tables]
    ends = np.quantile(both, (0.025, 0.975), axis=0)

    def sorted_shares(values: Array) -> tuple[float, ...]:
        return tuple(float(share) for share in _first(values)[order])

    return ResampledRanking(
        blocks,
        tuple(blocks.methods[place] for place in order),
        tuple(float(ranks[place]) for place in order),
        tuple((float(ends[0, place]), float(ends[1, place])) for place in order),
        sorted_shares(both),
        sorted_shares(_ranks(blocks, drawn, alone)) if drawn else None,
        sorted_shares(_ranks(blocks, fixed, seeds)),
        kind,
        reason,
        critical_difference(len(order), len(blocks.blocks)),
        friedman(blocks.values),
    )


def _drawn(store: Store, blocks: Blocks, resamples: int) -> tuple[str, list[Array]]:
    """Return the units, and the values of each place in resamples of them ``(resamples, seeds, m)``."""
    found, kind = [], ""
    for _, rows in blocks.places:
        samples = [_sample(store, blocks.metric, cell) for row in rows for cell in row]
        kind = samples[0].kind
        if kind == "prototypes":
            raise NoInterval("its units are prototypes, and those of two methods are different things")
        found.append(resampled(samples, resamples).reshape(resamples, len(rows), -1))
    return kind, found


def _sample(store: Store, metric: str, cell: CellRecord) -> Sample:
    value = cell.score(metric)[1]
    assert value is not None
    return Items(store.files(cell.name), metric, cell.spec["metrics"][metric]).sample(value)


def _seeds(blocks: Blocks, resamples: int) -> list[Array]:
    """Return the weight of each seed in each resample, of each place ``(resamples, seeds)``."""
    weights = []
    for place, count in enumerate(map(len, blocks.tables)):
        generator = np.random.default_rng(derive(0, "seeds of ranks", place, count, resamples))
        size = max(1, count - 1)
        weights.append(generator.multinomial(size, np.full(count, 1 / count), resamples) / size)
    return weights


def _ranks(blocks: Blocks, values: Sequence[Array], weights: Sequence[Array]) -> Array:
    """Return the mean rank of each method in each resample ``(resamples, m)``; every block counts as much."""
    from scipy.stats import rankdata  # takes a second to import, which readers of single results should not wait for

    total: Array = np.zeros(())
    for own, weight in zip(values, weights, strict=True):
        ranks = rankdata(np.round(-own if blocks.higher_is_better else own, _DIGITS), axis=2)
        # A mean over the drawn seeds of each place, weighted by its number of blocks.
        total = total + (ranks * weight[:, :, None]).sum(1) * own.shape[1] / len(blocks.blocks)
    return np.asarray(total)


def _first(ranks: Array) -> Array:
    """Return how often each method has the lowest mean rank ``(m,)``; equals share it."""
    lowest = np.round(ranks, _DIGITS) == np.round(ranks.min(1, keepdims=True), _DIGITS)
    return np.asarray((lowest / lowest.sum(1, keepdims=True)).mean(0))
