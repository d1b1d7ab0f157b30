"""Statistical support for a store's results: against the black box, against chance, between methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal, get_args

from bench.report.result_tables import Result
from bench.report.table import Column, Row
from bench.results.aggregate import SeedGroup
from bench.results.labels import FIRST_METRICS
from bench.results.stats.compare import corrected_over_all
from bench.results.stats.contest import Comparison
from bench.results.stats.pairwise import Judge
from bench.results.store import Store

MOST = 300
"""Tests in a report: Holm's correction makes more of them less powerful."""
MOST_UNITS = 100_000
"""Images and classes that are swapped in all tests together: what some seconds are enough for."""

Question = Literal["black box", "chance", "methods", "black box, changed", "chance, changed"]
QUESTIONS: tuple[Question, ...] = get_args(Question)
"""Each is a family of tests of its own: rows with changed settings do not alter the verdicts on the others."""


@dataclass
class Place:
    """Data set, protocol and backbone under which methods are compared side by side.

    Attributes:
        title: of the table that it belongs to.
        backbone: name.
        methods: labels of the rows with the settings of their recipes, in the table's order.
        changed: labels of the rows with changed settings.
        metrics: the compared ones, left to right.
        tests: size of the family of each question, over all places; filled in when all are tested.
        control: kind of the controls whose best one is chance.
        found: the comparisons, question by question; the first method of each is the one in question.
        left: the method in question of each comparison that was left out, question by question.
    """

    title: str
    backbone: str
    methods: list[str]
    changed: list[str]
    metrics: list[Column]
    tests: dict[Question, int]
    control: str
    found: dict[Question, list[Comparison]] = field(default_factory=lambda: {name: [] for name in QUESTIONS})
    left: dict[Question, list[str]] = field(default_factory=lambda: {name: [] for name in QUESTIONS})

    @property
    def judged(self) -> set[str]:
        """Labels that are compared with the black box or with chance."""
        return {one.methods[0] for question, own in self.found.items() if question != "methods" for one in own}

    def of(self, rival: Literal["black box", "chance"], method: str, metric: str) -> tuple[Comparison, int] | None:
        """Return the comparison of a method with the black box or with chance, and the size of its family."""
        families = [question for question in QUESTIONS if question.partition(", ")[0] == rival]
        own = [(one, self.tests[question]) for question in families for one in self.found[question]
               if one.methods[0] == method and one.metric == metric]  # fmt: skip
        return own[0] if own else None


def winner(one: Comparison) -> int | None:
    """Return which of the two is better, as far as that is shown: 0, 1, or ``None``."""
    for place, method in enumerate(one.methods):
        if one.verdict in (f"{method} better", f"{method} higher"):
            return place
    return None


def turned(one: Comparison) -> Comparison:
    """Return the same comparison, the second method first."""
    return replace(
        one,
        methods=one.methods[::-1],
        values=one.values[::-1],
        spreads=one.spreads[::-1],
        seeds=one.seeds[::-1],
        difference=None if one.difference is None else -one.difference,
        low=None if one.high is None else -one.high,
        high=None if one.low is None else -one.low,
    )


def verdicts(store: Store, results: Sequence[Result], most: int | None = None) -> list[Place]:
    """Answer three questions in every place, with p values corrected over all tests of a question, in all places.

    Each method is compared with the black box in accuracy, with the best content-free control of each metric in that
    metric, and with every other method. Rows with changed settings are not compared with each other, and their tests
    are corrected among themselves.

    Args:
        store: results with the per-item tables.
        results: all tables.
        most: number of tests, however long they take; by default as many as :data:`MOST` and :data:`MOST_UNITS` allow.
            Methods in default settings are first, with the questions in the order above, so that methods with
            changed settings are left out first, and only then pairs of methods.
    """
    judge = Judge(store)
    places: list[Place] = []
    sizes: dict[Question, int] = dict.fromkeys(QUESTIONS, 0)
    asked: list[tuple[Place, Question, SeedGroup, SeedGroup, str]] = []
    for result in results:
        for place, own in _places(result, sizes):
            places.append(place)
            asked += [(place, *one) for one in own]
    asked.sort(key=lambda one: QUESTIONS.index(one[1]))
    tested: list[tuple[Place, Question, Comparison]] = []
    tests = units = 0
    for place, question, first, second, metric in asked:
        if tests >= (MOST if most is None else most) or (most is None and units >= MOST_UNITS):
            place.left[question].append(first.label)
            continue
        for one in judge.pair([first], [second], [metric]):
            tested.append((place, question, one))
            tests += one.p is not None
            units += one.units or 0
    for question in QUESTIONS:
        own = [(place, one) for place, about, one in tested if about == question]
        sizes[question] = sum(one.p is not None for _, one in own)
        for (place, _), one in zip(own, corrected_over_all([one for _, one in own]), strict=True):
            place.found[question].append(one)
    return places


def _places(
    result: Result, sizes: dict[Question, int]
) -> Iterator[tuple[Place, list[tuple[Question, SeedGroup, SeedGroup, str]]]]:
    columns = [column for column in result.table.columns if column.name in FIRST_METRICS]
    controls = [(row, group) for row, group in result.rows if row.role == "control"]
    for backbone in dict.fromkeys(row.backbone for row in result.table.rows if row.backbone):
        rows = [(row, group) for row, group in result.rows if row.backbone == backbone]
        methods = [(row, group) for row, group in rows if row.role == "method"]
        asked: list[tuple[Question, SeedGroup, SeedGroup, str]] = []
        for row, group in methods:
            for column in columns:
                if row.number(column) is None:
                    continue
                rivals: list[tuple[Question, SeedGroup]] = []
                plain = group.first.plain
                if column.name == "accuracy":
                    rivals += [("black box" if plain else "black box, changed", other) for own, other in rows
                               if own.role == "reference" and own.number(column) is not None]  # fmt: skip
                best = _best([one for one in controls if one[0].backbone in ("", backbone)], column)
                rivals += [("chance" if plain else "chance, changed", best)] if best is not None else []
                asked += [(question, group, other, column.name) for question, other in rivals]
        labels: dict[bool, list[str]] = {True: [], False: []}
        for row, group in methods:
            labels[group.first.plain].append(row.label)
        for column in columns:
            there = [group for row, group in methods if group.first.plain and row.number(column) is not None]
            asked += [("methods", one, two, column.name) for one, two in combinations(there, 2)]
        if methods:
            # Controls with a backbone see the image, and know no class.
            kind = "control" if any(row.backbone == backbone for row, _ in controls) else "content-free control"
            yield Place(result.table.title, backbone, labels[True], labels[False], columns, sizes, kind), asked


def _best(controls: Sequence[tuple[Row, SeedGroup]], column: Column) -> SeedGroup | None:
    """Return the control that does best without content; it is the hardest one to beat."""
    known = [(row.number(column), group) for row, group in controls]
    there = [(value, group) for value, group in known if value is not None]
    sign = 1 if column.higher_is_better else -1
    return max(there, key=lambda pair: sign * pair[0])[1] if there else None
