"""Critical-difference diagrams: mean ranks of methods over data sets, backbones and seeds.

Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006), section 3.2.2. Blocks are as
independent as its tests assume only if they are of different data; seeds and backbones of one data set are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.report.html.sparklines import Tick
from bench.report.result_tables import Result
from bench.report.table import Column, Row, Table
from bench.results.aggregate import Entry
from bench.results.labels import FIRST_METRICS
from bench.results.stats.ranking import shared_blocks
from bench.results.stats.tests import critical_difference, friedman, mean_ranks

WIDTH = 640
_SIDE, _TOP, _LINE = 150, 62, 20


@dataclass(frozen=True)
class Ranking:
    """Mean ranks in one metric, and where they are in a drawing :data:`WIDTH` wide.

    Attributes:
        metric: its name.
        methods: labels, the best first.
        ranks: mean rank of each; 1 is best.
        blocks: number of blocks: a data set, a backbone and a seed.
        gap: critical difference of two mean ranks.
        p: of Friedman's test, from five blocks on.
        left: methods that not all of the blocks have.
    """

    metric: str
    methods: tuple[str, ...]
    ranks: tuple[float, ...]
    blocks: int
    gap: float
    p: float | None
    left: tuple[str, ...]

    @cached_property
    def alike(self) -> list[tuple[int, int]]:
        """First and last of neighbours that are not further apart than the critical difference; the largest groups."""
        last = [max(j for j, other in enumerate(self.ranks) if other - rank <= self.gap) for rank in self.ranks]
        return [(i, j) for i, j in enumerate(last) if j > i and (i == 0 or last[i - 1] < j)]

    def x(self, rank: float) -> float:
        """Return the horizontal place of a rank."""
        return round(_SIDE + (WIDTH - 2 * _SIDE) * (rank - 1) / (len(self.ranks) - 1), 1)

    @property
    def axis(self) -> list[Tick]:
        """Ticks of the axis."""
        return [Tick(self.x(rank), str(rank)) for rank in range(1, len(self.ranks) + 1)]

    @property
    def bars(self) -> list[tuple[float, float, float]]:
        """Both ends and the height of a bar under each group that is alike."""
        return [(self.x(self.ranks[i]) - 4, self.x(self.ranks[j]) + 4, _TOP + 8 + 7 * place)
                for place, (i, j) in enumerate(self.alike)]  # fmt: skip

    @property
    def labels(self) -> list[tuple[str, float, float, bool]]:
        """Text, horizontal place of the rank, height, and whether it is on the left, of each method."""
        half, top = (len(self.ranks) + 1) // 2, _TOP + 22 + 7 * len(self.alike)
        found = []
        for place, (name, rank) in enumerate(zip(self.methods, self.ranks, strict=True)):
            line = place if place < half else len(self.ranks) - 1 - place
            found.append((f"{name} {rank:.2f}", self.x(rank), float(top + _LINE * line), place < half))
        return found

    @property
    def height(self) -> int:
        """Height of the drawing."""
        return int(max(height for _, _, height, _ in self.labels)) + 12

    @property
    def alt(self) -> str:
        """The drawing in words."""
        ranks = ", ".join(f"{name} {rank:.2f}" for name, rank in zip(self.methods, self.ranks, strict=True))
        groups = "; ".join(", ".join(self.methods[i : j + 1]) for i, j in self.alike)
        return (f"Mean ranks in {self.metric.replace('_', ' ')}: {ranks}; critical difference {self.gap:.2f}. "
                + (f"Not distinguished: {groups}." if groups else "All are distinguished."))  # fmt: skip


def rankings(results: Sequence[Result]) -> list[Ranking]:
    """Return a ranking for each of the usual metrics in which at least three methods share at least two blocks.

    Only rows of methods in the settings of their recipes are ranked.
    """
    columns = dict.fromkeys(column for result in results for column in result.table.columns)
    known = {column.name: column for column in columns if column.name in FIRST_METRICS}
    found = [_ranking(known[metric], results) for metric in FIRST_METRICS if metric in known]
    return [one for one in found if one is not None]


def table_of(found: Sequence[Ranking]) -> Table:
    """Return the mean ranks as a table, a row for each metric."""
    methods = dict.fromkeys(name for one in found for name in one.methods)
    columns = (*(Column(name, digits=".2f") for name in methods), Column("critical difference", digits=".2f"),
               Column("blocks", digits=".0f"), Column("Friedman p", digits=".2g"))  # fmt: skip
    rows = []
    for one in found:
        numbers = dict(zip(one.methods, one.ranks, strict=True))
        numbers |= {"critical difference": one.gap, "blocks": float(one.blocks)}
        numbers |= {} if one.p is None else {"Friedman p": one.p}
        rows.append(Row(one.metric, {name: Entry("ok", value) for name, value in numbers.items()}))
    fact = "mean rank over blocks (data set, backbone, seed), 1 is best; critical difference by Nemenyi at 0.05"
    return Table("mean ranks", columns, tuple(rows), ("metric",), facts=(fact,))


def _ranking(column: Column, results: Sequence[Result]) -> Ranking | None:
    blocks = shared_blocks([result.members for result in results], column.name)
    if blocks is None:
        return None
    # Values that look the same in the table share a rank.
    table = np.vectorize(column.printed)(blocks.values)
    ranks = mean_ranks(table, column.higher_is_better)
    order = np.argsort(ranks, kind="stable")
    return Ranking(
        column.name, tuple(blocks.methods[i] for i in order), tuple(float(ranks[i]) for i in order), len(table),
        critical_difference(len(order), len(table)), friedman(table), blocks.left,
    )  # fmt: skip
