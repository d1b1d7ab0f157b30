"""Selection of the cells of a store for a table of the paper, and of those that may share one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.core import registry
from bench.results import labels
from bench.results.aggregate import Entry, as_entry, with_interval
from bench.results.grouping import precedence, together
from bench.results.labels import text_of
from bench.results.records import CellRecord
from bench.results.store import Store

_OWN_IDENTITY = ("seed", "metrics")
_RANK = {"ok": 0, "n/a": 1, "oom": 2, "failed": 2, "missing": 3}
_NOT_ASKED = 4


@dataclass(frozen=True)
class Candidate:
    """Cell that belongs into a table.

    Attributes:
        stamp: of the newest run that asked for it; empty if no run is known any more.
        command: of that run.
        suites: of all runs that asked for it.
        referenced: whether one of those runs has the black box too, see :func:`bench.results.grouping.precedence`.
    """

    found: CellRecord
    stamp: str
    command: str
    suites: frozenset[str] = frozenset()
    referenced: bool = False

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that changes its result."""
        return self.found.spec

    @property
    def done(self) -> bool:
        """Return whether it is finished."""
        return self.found.result is not None

    @property
    def changed(self) -> set[str]:
        """Return the names of the settings that are not those of the recipe."""
        return labels.changed(self.found.written)

    @property
    def plain(self) -> bool:
        """Return whether it is the method with the settings of its recipe, or a given network of that method."""
        return labels.is_plain(self.found.written)

    @property
    def label(self) -> str:
        """Name of the row."""
        return labels.name_of(self.found.written)


Row = Callable[[Candidate], tuple[str, ...]]
"""What cells of one row have in common, besides what makes them comparable."""


@dataclass(frozen=True)
class Bounds:
    """Request for intervals: the store to read, and the units found for each metric."""

    store: Store
    kinds: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """Cells of one row: the same method in the same settings; they differ in the seed, or in their metrics.

    Attributes:
        candidates: newest first.
        bounds: the store of their tables, if intervals are requested.
    """

    candidates: tuple[Candidate, ...]
    bounds: Bounds | None = None

    @property
    def first(self) -> Candidate:
        """Newest cell."""
        return self.candidates[0]

    @property
    def spec(self) -> dict[str, Any]:
        """Specification of the newest cell."""
        return self.first.found.spec

    @property
    def label(self) -> str:
        """Name of the row."""
        return self.first.label

    @property
    def role(self) -> Any:
        """Method, reference or control."""
        return self.first.found.written["role"]

    @property
    def backbone(self) -> str:
        """Name of the backbone; empty if the method uses none."""
        return self.spec["backbone"] or ""

    @property
    def speaking(self) -> list[Candidate]:
        """Return the candidates: those with their black box in the same run first, then the newest."""
        return sorted(self.candidates, key=lambda one: not one.referenced)

    def deciding(self, metric: str) -> list[Candidate]:
        """Return the cell that counts for each seed: one with a value, else one with the reason why there is none.

        If the metric was requested in some cells, those without it do not count.
        """
        chosen: dict[int, Candidate] = {}
        asked = [one for one in self.speaking if _rank(one.found, metric) < _NOT_ASKED]
        for one in sorted(asked or self.speaking, key=lambda one: _rank(one.found, metric)):
            chosen.setdefault(one.found.spec["seed"], one)
        return [chosen[seed] for seed in sorted(chosen)]

    def entry(self, metric: str, notes: list[str]) -> Entry:
        """Return mean and spread over the seeds, or why there is none; footnotes are added to ``notes``."""
        row = [one.found for one in self.deciding(metric)]
        entry = as_entry(row, metric, notes)
        if self.bounds is None:
            return entry
        return with_interval(entry, row, metric, self.bounds.store, notes, self.bounds.kinds)


@dataclass
class Comparable:
    """Cells that may share a table: one state of the data, seen in one way, and one definition of each metric.

    Attributes:
        definitions: metric -> version and parameters, of this table's metrics.
        older: how many cells were left out because a newer run has the same row, in other settings or finished.
    """

    candidates: list[Candidate]
    definitions: dict[str, str]
    fits: list[Fit] = field(default_factory=list)
    older: int = 0

    @property
    def spec(self) -> dict[str, Any]:
        """Specification of any of them, for the fields that they share."""
        return self.candidates[0].found.spec

    @property
    def outcomes(self) -> list[dict[str, Any]]:
        """Return the results of the finished cells in the rows."""
        found = [one.found.result for fit in self.fits for one in fit.candidates]
        return [outcome for outcome in found if outcome is not None]

    @property
    def images(self) -> tuple[int, int] | None:
        """Return the numbers of training and test images, if a cell is finished."""
        for outcome in self.outcomes:
            return outcome["images"].get("train", 0), outcome["images"].get("test", 0)
        return None


def candidates(store: Store, stamp: str | None = None, suite: str | None = None) -> list[Candidate]:
    """Return all cells of a store or of one run, newest first.

    Args:
        store: contains the results.
        stamp: of one run.
        suite: of which the newest run is taken.

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
    names = [name for name in store.cells() if wanted is None or name in wanted]
    every = {found.name: found for found in store.records(names)}
    references = {name for name, found in every.items() if found.written["role"] == "reference" and found.result}
    placed = precedence(known, references)
    chosen = []
    for name, found in every.items():
        referenced, when = placed.get(name, (False, ""))
        command = known[when]["command"] if when else found.written["command"]
        chosen.append(Candidate(found, when, command, frozenset(suites[name]), referenced))
    return sorted(chosen, key=_age, reverse=True)


def comparable(
    chosen: Sequence[Candidate],
    metrics: Sequence[str] | None = None,
    bounds: Bounds | None = None,
    row: Row | None = None,
) -> list[Comparable]:
    """Group the cells whose numbers may share a table, each group with its rows.

    Args:
        chosen: newest first.
        metrics: of the table; by default all that were requested.
        bounds: given if entries are to have intervals.
        row: key that cells of one row share, by default role, name and backbone.
    """
    if metrics is None:
        metrics = list(dict.fromkeys(metric for one in chosen for metric in one.found.spec["metrics"]))
    return [_with_fits(group, metrics, bounds, row or _named) for group in _groups(chosen, metrics)]


def _named(one: Candidate) -> tuple[str, ...]:
    return one.found.written["role"], one.label, one.found.spec["backbone"] or ""


def _groups(chosen: Sequence[Candidate], metrics: Sequence[str]) -> list[Comparable]:
    own = [{name: text for name, text in one.found.definitions.items() if name in metrics} for one in chosen]
    found = together((one, one.found.spec, texts) for one, texts in zip(chosen, own, strict=True))
    return [Comparable(members, definitions) for definitions, members in found]


def _with_fits(group: Comparable, metrics: Sequence[str], bounds: Bounds | None, row: Row) -> Comparable:
    """Choose one fit for each row: the settings with most of the metrics finished, then the newest."""
    rows: dict[tuple[str, ...], dict[str, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    for one in group.candidates:
        identity = text_of({key: value for key, value in one.found.spec.items() if key not in _OWN_IDENTITY})
        rows[row(one)][identity].append(one)
    for variants in rows.values():
        fits = [Fit(tuple(cells), bounds) for cells in map(_without_abandoned, variants.values())]
        group.older += sum(map(len, variants.values())) - sum(len(fit.candidates) for fit in fits)
        # Sorting keeps the order of equals: the newest comes first.
        fits.sort(key=lambda fit: -_measured(fit, metrics))
        group.fits.append(fits[0])
        group.older += sum(len(fit.candidates) for fit in fits[1:])
    # In the order of the catalogue: it does not depend on which cell ran first.
    order = list(registry.names("methods"))
    group.fits.sort(key=lambda fit: (_place(fit.spec["method"], order), fit.label, fit.backbone))
    return group


def _without_abandoned(cells: list[Candidate]) -> list[Candidate]:
    """Drop the cells that never ran to an end in runs older than the newest result."""
    newest = max((_age(one) for one in cells if one.found.result is not None), default=0)
    return [one for one in cells if one.found.result or one.found.failure or _age(one) >= newest]


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _measured(fit: Fit, metrics: Sequence[str]) -> int:
    return sum(any(_rank(one.found, metric) == 0 for one in fit.candidates) for metric in metrics)


def _rank(found: CellRecord, metric: str) -> int:
    if metric not in found.spec["metrics"] and metric not in found.written["not_applicable"]:
        return _NOT_ASKED
    return _RANK[found.score(metric)[0]]


def _age(candidate: Candidate) -> int:
    """Return a number that is larger for later requests: the digits of the stamp."""
    return int("".join(filter(str.isdigit, candidate.stamp)) or 0)
