"""Cells of one row, and their means over seeds with spread and interval, or the reason why there is none."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.results.cell_record import CellRecord, ScoreStatus, in_words
from bench.results.stats.bootstrap import NoInterval
from bench.results.stats.intervals import over_seeds
from bench.results.store import Store

# Of several cells of one seed the one with a value counts, then the one with the most definite reason for none.
_RANK = {"ok": 0, "n/a": 1, "oom": 2, "failed": 2, "missing": 3}
# What a place says if no seed has a value: the reason that a reader can do most about.
_GRAVEST: tuple[ScoreStatus, ...] = ("oom", "failed", "missing", "n/a")
_LONGEST_REASON = 240


@dataclass(frozen=True)
class Entry:
    """One number of the table, or why there is none.

    Attributes:
        status: ``ok`` if at least one seed has a value.
        value: mean over the seeds.
        spread: their standard deviation (n - 1), if there is more than one.
        seeds: those behind the value.
        notes: numbers of the footnotes, from 1.
        best: whether no method has a better one.
        low: lower end of the 95 % interval, if it was requested and exists.
        high: upper end.
        collapsed: whether a collapse of the method explains the value, so that it is never the best.
    """

    status: ScoreStatus
    value: float | None = None
    spread: float | None = None
    seeds: tuple[int, ...] = ()
    notes: tuple[int, ...] = ()
    best: bool = False
    low: float | None = None
    high: float | None = None
    collapsed: bool = False


@dataclass(frozen=True)
class Bounds:
    """Request for intervals: the store to read, and the units found for each metric."""

    store: Store
    kinds: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SeedGroup:
    """Cells of one row of a table, or of one side of a comparison: one method in one setting, in several seeds.

    It is no plain list: its name may be another than that of its cells (``ours#3fa9c1``), and it may have intervals.

    Attributes:
        cells: newest first; they differ in the seed, or in their metrics.
        label: name of the row.
        bounds: the store of the cells' tables, if intervals are requested.
    """

    cells: tuple[CellRecord, ...]
    label: str
    bounds: Bounds | None = None

    @property
    def first(self) -> CellRecord:
        """Newest cell."""
        return self.cells[0]

    @property
    def spec(self) -> dict[str, Any]:
        """Specification of the newest cell."""
        return self.first.spec

    @property
    def role(self) -> str:
        """Method, reference or control."""
        return self.first.role

    @property
    def backbone(self) -> str:
        """Name of the backbone; empty if the method uses none."""
        return self.first.backbone

    @property
    def preferred(self) -> list[CellRecord]:
        """Cells with their black box in the same run first, then the newest."""
        return sorted(self.cells, key=lambda cell: not cell.referenced)

    def speaking(self, metric: str) -> dict[int, CellRecord]:
        """Return the cell that counts for each seed: one with a value, else one with the reason why there is none.

        If the metric was requested in some cells, those without it do not count.
        """
        by_seed: dict[int, list[CellRecord]] = defaultdict(list)
        for cell in [cell for cell in self.preferred if cell.asked(metric)] or self.preferred:
            by_seed[cell.seed].append(cell)
        return {seed: min(by_seed[seed], key=lambda cell: _RANK[cell.score(metric)[0]]) for seed in sorted(by_seed)}

    def by_definition(self, metric: str) -> dict[str, dict[int, CellRecord]]:
        """Return the cells that count for each seed, for every definition in which the metric was measured."""
        found: dict[str, list[CellRecord]] = defaultdict(list)
        for cell in self.cells:
            if metric in cell.definitions:
                found[cell.definitions[metric]].append(cell)
        return {text: replace(self, cells=tuple(cells)).speaking(metric) for text, cells in found.items()}

    def has(self, metric: str) -> bool:
        """Return whether a cell has a value of a metric."""
        return any(cell.score(metric)[0] == "ok" for cell in self.cells)

    def entry(self, metric: str, notes: list[str]) -> Entry:
        """Return mean and spread over the seeds, or why there is none; footnotes are added to ``notes``."""
        cells = list(self.speaking(metric).values())
        entry = as_entry(cells, metric, notes)
        return entry if self.bounds is None else with_interval(entry, cells, metric, self.bounds, notes)


def footnote(text: str, notes: list[str]) -> int:
    """Return the number of a footnote of a table, from 1; a new one is added to ``notes``."""
    if text not in notes:
        notes.append(text)
    return notes.index(text) + 1


def as_entry(row: Sequence[CellRecord], metric: str, notes: list[str]) -> Entry:
    """Return one entry of a table: mean and spread over the seeds of a row, or the reason why there is none.

    Footnotes that are new are added to ``notes``.
    """
    values: dict[int, float] = {}
    without: dict[tuple[ScoreStatus, str], list[int]] = defaultdict(list)
    for cell in row:
        status, value, reason = cell.score(metric)
        if value is None:
            without[status, reason].append(cell.seed)
        else:
            values[cell.seed] = value
    told = [_note(status, reason, _some(seeds, row)) for (status, reason), seeds in without.items()]
    one_by_one = [cell.seed for cell in row if cell.seed in values and cell.one_by_one]
    if one_by_one:
        told.append(f"{_seeds(_some(one_by_one, row))}fitted with one image at a time: more did not fit into memory")
    numbers = tuple(footnote(note, notes) for note in told)
    if not values:
        gravest = min((status for status, _ in without), key=_GRAVEST.index)
        return Entry(gravest, notes=numbers)
    spread = statistics.stdev(values.values()) if len(values) > 1 else None
    return Entry("ok", statistics.fmean(values.values()), spread, tuple(values), numbers)


def with_interval(entry: Entry, row: Sequence[CellRecord], metric: str, bounds: Bounds, notes: list[str]) -> Entry:
    """Return the entry of a table with its interval, or with a footnote why it has none.

    ``bounds`` learns over which units the interval is; a new footnote is added to ``notes``.
    """
    scored = [(cell, cell.score(metric)[1]) for cell in row]
    values = [(cell, value) for cell, value in scored if value is not None]
    if not values:
        return entry
    facts = values[0][0].spec["metrics"][metric]
    try:
        found = over_seeds(metric, facts, [(bounds.store.files(cell.name), value) for cell, value in values])
    except NoInterval as error:
        return replace(entry, notes=(*entry.notes, footnote(f"no interval: {error}", notes)))
    bounds.kinds[metric] = found.kind
    return replace(entry, low=found.low, high=found.high)


def about_intervals(kinds: Mapping[str, str]) -> list[str]:
    """Return the line that explains the intervals of a table, if it has any."""
    if not kinds:
        return []
    units = [
        f"{kind} ({', '.join(metric for metric, own in kinds.items() if own == kind)})"
        for kind in dict.fromkeys(kinds.values())
    ]
    return [
        f"[low, high]: 95 % interval, BCa bootstrap over {' and '.join(units)}, and over seeds where there are several"
    ]


def _note(status: ScoreStatus, reason: str, seeds: list[int]) -> str:
    """Return the text of the footnote; seeds are named if the others have a value or another reason."""
    which = _seeds(seeds)
    reason = " ".join(reason.split())
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[: _LONGEST_REASON - 1]}…"
    if status == "missing" and reason:
        return f"{which}{reason}"
    return f"{which}{in_words(status)}{f': {reason}' if reason else ''}"


def _some(seeds: list[int], row: list[CellRecord]) -> list[int]:
    """Return the seeds that have to be named, because they are not all of the row."""
    return seeds if len(seeds) < len(row) else []


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} " if seeds else ""
