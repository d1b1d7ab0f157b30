"""Cells of a store or of one run, and the groups of them whose numbers may share a table or a plot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.core import registry
from bench.core.errors import RequestError
from bench.results.aggregate import Bounds, SeedGroup
from bench.results.cell_record import CellRecord
from bench.results.labels import FIRST_METRICS, metric_order, position
from bench.results.rows import as_frame
from bench.results.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from bench.results.stats.contest import Contest

Key = Callable[[CellRecord], tuple[str, ...]]
"""Return what cells of one row have in common, besides what makes them comparable."""


@dataclass(frozen=True)
class ComparableGroup:
    """Cells that may share a table, and those of them that are its rows.

    Attributes:
        cells: newest first: one state of the data, seen in one way, and one definition of each metric.
        definitions: metric -> version and parameters, of this table's metrics.
        rows: of several settings under one name, those with most of the metrics finished, then the newest.
    """

    cells: list[CellRecord]
    definitions: dict[str, str]
    rows: list[SeedGroup]

    @property
    def spec(self) -> dict[str, Any]:
        """Specification of any of them, for the fields that they share."""
        return self.cells[0].spec

    @property
    def shown(self) -> list[CellRecord]:
        """Cells of the rows."""
        return [cell for row in self.rows for cell in row.cells]

    @property
    def older(self) -> int:
        """How many cells were left out because a newer run has the same row, in other settings or finished."""
        return len(self.cells) - len(self.shown)

    @property
    def outcomes(self) -> list[dict[str, Any]]:
        """Return the results of the finished cells in the rows."""
        return [cell.result for cell in self.shown if cell.result is not None]

    @property
    def images(self) -> tuple[int, int] | None:
        """Return the numbers of training and test images, if a cell is finished."""
        for outcome in self.outcomes:
            return outcome["images"].get("train", 0), outcome["images"].get("test", 0)
        return None


@dataclass(frozen=True)
class ResultSet:
    """Cells of a store, newest first.

    >>> ResultSet.of(store, suite="demo").select(method="ours", seed=0).to_pandas()  # doctest: +SKIP
    """

    store: Store
    cells: tuple[CellRecord, ...]

    @classmethod
    def of(cls, store: Store, stamp: str | None = None, suite: str | None = None) -> ResultSet:
        """Return all cells of a store, of one run, or of the newest run of a suite.

        Raises:
            RequestError: if that run is not known.
        """
        known = store.invocations()
        one_run = store.chosen_run(stamp, suite) if stamp or suite else None
        suites: dict[str, set[str]] = defaultdict(set)
        for content in known.values():
            for name in content["cells"]:
                suites[name].add(content["suite"])
        wanted = set(known[one_run]["cells"]) if one_run else None
        every = store.records(name for name in store.cells() if wanted is None or name in wanted)
        # Only a finished black box can be the one that a method is compared with.
        placed = precedence(known, {cell.name for cell in every if cell.role == "reference" and cell.result})
        cells = []
        for cell in every:
            referenced, when = placed.get(cell.name, (False, ""))
            command = known[when]["command"] if when else cell.written["command"]
            suite_names = frozenset(suites[cell.name])
            cells.append(replace(cell, stamp=when, command=command, suites=suite_names, referenced=referenced))
        return cls(store, tuple(sorted(cells, key=_age, reverse=True)))

    def __iter__(self) -> Iterator[CellRecord]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    def required(self) -> ResultSet:
        """Return the set itself.

        Raises:
            RequestError: if it has no cell.
        """
        if not self.cells:
            raise RequestError(
                f"there are no cells in {self.store.root}: python -m bench run --methods ours,protopnet --datasets demo"
            )
        return self

    def select(self, **fields: Any) -> ResultSet:
        """Return the cells with these values of :class:`CellRecord`'s properties or of the specification's fields.

        Raises:
            RequestError: for a field that cells do not have.
        """

        def value(cell: CellRecord, name: str) -> Any:
            if name in cell.spec or hasattr(cell, name):
                return getattr(cell, name, cell.spec.get(name))
            raise RequestError(f"cells have no {name!r}; they have {', '.join(cell.spec)}, label, role and status")

        return replace(
            self,
            cells=tuple(cell for cell in self.cells if all(value(cell, name) == own for name, own in fields.items())),
        )

    def of_suites(self, suites: Sequence[str]) -> ResultSet:
        """Return the cells of some suites, or all if none is named.

        Raises:
            RequestError: for a suite that was not run.
        """
        known = {name for cell in self.cells for name in cell.suites}
        for name in suites:
            if name not in known:
                raise RequestError(f"suite {name!r} has not been run{registry.nearest(name, known)}")
        return replace(self, cells=tuple(cell for cell in self.cells if not suites or cell.suites & set(suites)))

    def groups(
        self, metrics: Sequence[str] | None = None, bounds: Bounds | None = None, key: Key | None = None
    ) -> list[ComparableGroup]:
        """Group the cells whose numbers may share a table, each group with its rows: :meth:`SeedGroup.entry` is a mean.

        Args:
            metrics: of the table; by default all that were requested.
            bounds: given if entries are to have intervals.
            key: of the cells of one row, by default role, name and backbone.
        """
        return [
            ComparableGroup(cells, definitions, _rows(cells, metrics, bounds, key or _named))
            for definitions, cells in comparable(self.cells, metrics)
        ]

    def compare(self, *methods: str, metrics: Sequence[str] = (), first_only: bool = False) -> Contest:
        """Compare methods in these cells alone, as :func:`bench.results.stats.compare.compare` does."""
        from bench.results.stats.compare import compare_cells

        return compare_cells(self.store, self.cells, f"cells: {len(self)} chosen", methods, metrics, first_only)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per cell and metric, with the columns of ``results --json``."""
        return as_frame(self.store.rows([cell.name for cell in self.cells]))


def comparable(
    cells: Iterable[CellRecord], metrics: Collection[str] | None = None
) -> list[tuple[dict[str, str], list[CellRecord]]]:
    """Group cells about the same data, seen in the same way, with no metric in two definitions.

    Args:
        cells: of any kind.
        metrics: those that count here; by default all.

    Returns:
        Groups in the order of their first cells: the definitions that they share, and the cells in their order.
    """
    groups: list[tuple[dict[str, str], list[CellRecord]]] = []
    for cell in cells:
        own = {name: text for name, text in cell.definitions.items() if metrics is None or name in metrics}
        for definitions, members in groups:
            alike = all(definitions.get(metric, text) == text for metric, text in own.items())
            if members[0].view == cell.view and alike:
                definitions.update(own)
                members.append(cell)
                break
        else:
            groups.append((own, [cell]))
    return groups


def wanted_metrics(
    cells: Iterable[CellRecord], metrics: Sequence[str], origin: str, usual: bool = False, numbers: bool = False
) -> list[str]:
    """Return the metrics that a reader names, singly or by group, of those that some cell measured or refused.

    Args:
        cells: that are looked at.
        metrics: names and groups; by default all that were measured.
        origin: of the cells, in words, for the errors.
        usual: whether the default is the usual metrics alone.
        numbers: whether ``METRIC.NUMBER`` names a further number of a metric.

    Raises:
        RequestError: for a name that exists and was not measured, or one that does not exist, with the nearest name.
    """
    cells, known = list(cells), registry.names("metrics")
    order = sorted({name for cell in cells for name in cell.spec["metrics"]}, key=metric_order)
    if not metrics:
        return [name for name in order if not usual or name in FIRST_METRICS]
    single = {*order, *(name for cell in cells for name in cell.written["not_applicable"])}
    if numbers:
        single |= {f"{metric}.{number}" for cell in cells if cell.result is not None
                   for metric, score in cell.result["scores"].items() for number in score.get("also", {})}  # fmt: skip
    found: list[str] = []
    for name in metrics:
        try:
            own = [name] if name in single else registry.chosen_metrics([name], shared=True)
        except registry.UnknownName as error:
            groups = {known[metric].group for metric in order if metric in known and known[metric].group}
            near = registry.nearest(name, {*single, *groups})
            raise RequestError(f"no result of metric {name!r} ({origin}){near}") from error
        there = [name] if name in single else [metric for metric in order if metric in own]
        if not there:
            raise RequestError(
                f"{name} was not measured ({origin}): run the methods again with --metrics {name}; there are results "
                f"of: {registry.some(order)}"
            )
        found += there
    return list(dict.fromkeys(found))


def precedence(runs: Mapping[str, Mapping[str, Any]], references: Collection[str]) -> dict[str, tuple[bool, str]]:
    """Return for each requested cell whether one of its runs has the black box too, and its newest run.

    The larger one counts: on another machine the same seed may have trained another black box, and a method is to be
    compared with its own.

    Args:
        runs: by their stamps.
        references: ids of finished cells of black boxes.
    """
    found: dict[str, tuple[bool, str]] = {}
    for stamp, run in sorted(runs.items()):
        beside = any(name in references for name in run["cells"])
        for name in run["cells"]:
            found[name] = (beside or (name in found and found[name][0]), stamp)
    return found


def _named(cell: CellRecord) -> tuple[str, ...]:
    return cell.role, cell.label, cell.backbone


def _rows(
    cells: Sequence[CellRecord], metrics: Sequence[str] | None, bounds: Bounds | None, key: Key
) -> list[SeedGroup]:
    """Choose the cells of each row: the settings with most of the metrics finished, then the newest."""
    if metrics is None:
        metrics = list(dict.fromkeys(metric for cell in cells for metric in cell.definitions))
    found: dict[tuple[str, ...], dict[str, list[CellRecord]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        found[key(cell)][cell.identity].append(cell)
    rows = []
    for variants in found.values():
        groups = [SeedGroup(tuple(own), own[0].label, bounds) for own in map(_without_abandoned, variants.values())]
        # The first of equals: the newest.
        rows.append(max(groups, key=lambda group: sum(map(group.has, metrics))))
    # In the order of the catalogue: it does not depend on which cell ran first.
    order = list(registry.names("methods"))
    return sorted(rows, key=lambda row: (position(row.spec["method"], order), row.label, row.backbone))


def _without_abandoned(cells: list[CellRecord]) -> list[CellRecord]:
    """Drop the cells that never ran to an end in runs older than the newest result."""
    newest = max((_age(cell) for cell in cells if cell.result is not None), default=0)
    return [cell for cell in cells if cell.result or cell.failure or _age(cell) >= newest]


def _age(cell: CellRecord) -> int:
    """Return a number that is larger for later requests: the digits of the stamp."""
    return int("".join(filter(str.isdigit, cell.stamp)) or 0)
