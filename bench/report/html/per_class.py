"""Two methods class by class: which classes and images make the difference between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.core.integrity import Changed
from bench.report.html.filters import rounded_up
from bench.report.html.output_dir import file_name
from bench.report.html.verdicts import Place
from bench.report.result_tables import Result
from bench.report.table import Column, Row, Table
from bench.results.aggregate import Entry, SeedGroup
from bench.results.result_files import NotNumbers
from bench.results.store import Store

# Metric -> table, columns of names and classes, and the column whose mean is the share.
_SOURCES = {
    "accuracy": ("accuracy.image", "index", "label", "correct"),
    "consistency": ("consistency.prototype", "prototype", "class", "consistent"),
    "stability": ("stability.prototype", "prototype", "class", "stable"),
}
_MOST_IMAGES = 8


class Columns(NamedTuple):
    """Name, class and value of each row of a table of items, the name of an image being its place in the test split."""

    names: NDArray[np.int64]
    classes: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class ClassRow:
    """One class.

    Attributes:
        number: of the class.
        values: metric -> percent of the first and the second method; a metric is missing if one of them lacks it.
        only: for each of the two: how many images it has right that the other has not, as a mean over seeds, and the
            places in the test split of those with the largest difference.
    """

    number: int
    values: Mapping[str, tuple[float, float]]
    only: tuple[tuple[float, tuple[int, ...]], tuple[float, tuple[int, ...]]]

    @property
    def difference(self) -> float:
        """Accuracy of the first less that of the second."""
        first, second = self.values["accuracy"]
        return first - second


@dataclass(frozen=True)
class Pair:
    """Two methods on one data set with one backbone.

    Attributes:
        title: of the table that both are in.
        backbone: name.
        methods: names in the catalogue.
        seeds: those that both have.
        metrics: those that both have, in the order of the columns.
        rows: classes, the largest difference of accuracy first.
    """

    title: str
    backbone: str
    methods: tuple[str, str]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    rows: tuple[ClassRow, ...]

    @property
    def address(self) -> str:
        """Path of its page in the folder."""
        return f"pairs/{file_name(' '.join((self.title, self.backbone, *self.methods)))}.html"

    @property
    def reach(self) -> float:
        """End of a common axis for the differences of accuracy."""
        return rounded_up(max(abs(row.difference) for row in self.rows))

    @property
    def table(self) -> Table:
        """The rows as a table."""
        columns = tuple(Column(method, "%", metric) for metric in self.metrics for method in self.methods)
        rows = [
            Row(str(row.number), {column.key: Entry("ok", row.values[column.group][self.methods.index(column.name)])
                                  for column in columns if column.group in row.values})
            for row in self.rows
        ]  # fmt: skip
        title = f"{' and '.join(self.methods)} class by class: {self.title}, {self.backbone}"
        return Table(title, columns, tuple(rows), ("class",))


def pairs(store: Store, results: Sequence[Result], places: Sequence[Place]) -> list[Pair]:
    """Return every two methods in the settings of their recipes that were tested against each other in accuracy."""

    @cache
    def column(cell: str, metric: str) -> Columns | None:
        table, *columns = _SOURCES[metric]
        try:
            found = store.files(cell).table(f"items/{table}.csv")
            return Columns(
                *(np.asarray(found[name], dtype=kind) for name, kind in zip(columns, (int, int, float), strict=True))
            )
        except (OSError, ValueError, KeyError, Changed, NotNumbers):
            return None  # the verdict on this pair has the reason

    rows = {(one.table.title, row.backbone, row.label): group for one in results for row, group in one.rows}
    found = []
    for place in places:
        tested = {one.methods for one in place.found["methods"] if one.metric == "accuracy" and one.p is not None}
        for methods in combinations(place.methods, 2):
            if methods in tested:
                groups = [rows[place.title, place.backbone, label] for label in methods]
                pair = _pair(place, methods, groups, column)
                found += [pair] if pair is not None else []
    return found


def _pair(
    place: Place, methods: tuple[str, str], groups: list[SeedGroup], column: Callable[[str, str], Columns | None]
) -> Pair | None:
    def known(metric: str) -> dict[int, list[Columns]]:
        """Return the tables of both methods by seed."""
        first, second = (group.speaking(metric) for group in groups)
        both = {
            seed: [column(own[seed].name, metric) for own in (first, second)] for seed in sorted(first.keys() & second)
        }
        return {seed: there for seed, own in both.items() if len(there := [one for one in own if one is not None]) == 2}

    images = known("accuracy")
    rows_of = [one for own in images.values() for one in own]
    if not images or any(
        not np.array_equal(a, b) for one in rows_of for a, b in zip(one[:2], rows_of[0][:2], strict=True)
    ):
        return None
    names, labels, _ = rows_of[0]
    hits = np.asarray([[one.values > 0 for one in own] for own in images.values()])
    # (2, images): how often only the one of them is right, over the seeds.
    only = np.stack([(hits[:, 0] & ~hits[:, 1]).mean(0), (hits[:, 1] & ~hits[:, 0]).mean(0)])
    tables = {metric: found for metric in _SOURCES if (found := known(metric))}
    shares = {metric: _shares(list(found.values())) for metric, found in tables.items()}
    rows = [
        ClassRow(number, {metric: own[number] for metric, own in shares.items() if number in own},
                 (_most(only[0], labels == number, names), _most(only[1], labels == number, names)))
        for number in shares["accuracy"]
    ]  # fmt: skip
    rows.sort(key=lambda row: (-abs(row.difference), row.number))
    return Pair(place.title, place.backbone, methods, tuple(images), tuple(tables), tuple(rows))


def _shares(by_seed: Sequence[Sequence[Columns]]) -> dict[int, tuple[float, float]]:
    """Return the percent of both methods by class, means over the seeds, of the classes that both have."""
    found: list[dict[int, list[float]]] = [defaultdict(list), defaultdict(list)]
    for both in by_seed:
        for own, one in zip(found, both, strict=True):
            for number in np.unique(one.classes).tolist():
                own[number].append(100 * float(one.values[one.classes == number].mean()))
    first, second = ({number: fmean(values) for number, values in own.items()} for own in found)
    return {number: (first[number], second[number]) for number in first if number in second}


def _most(
    share: NDArray[np.float64], chosen: NDArray[np.bool_], names: NDArray[np.int64]
) -> tuple[float, tuple[int, ...]]:
    """Return how many of the chosen images there are, each counting as its share, and the names of the first ones."""
    order = np.argsort(-share * chosen, kind="stable")[:_MOST_IMAGES].tolist()
    return float(share[chosen].sum()), tuple(int(names[i]) for i in order if chosen[i] and share[i] > 0)
