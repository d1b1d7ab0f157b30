"""Means over seeds with their spread and intervals, or the reason why there is none."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.results.records import CellRecord, ScoreStatus
from bench.results.stats.bootstrap import NoInterval
from bench.results.stats.intervals import over_seeds
from bench.results.store import Store

_PLAIN = {"n/a": "n/a", "failed": "failed", "oom": "out of memory", "missing": "not finished"}
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


def as_entry(row: Sequence[CellRecord], metric: str, notes: list[str]) -> Entry:
    """Return one entry of a table: mean and spread over the seeds of a row, or the reason why there is none.

    Footnotes that are new are added to ``notes``.
    """
    values: dict[int, float] = {}
    without: dict[tuple[ScoreStatus, str], list[int]] = defaultdict(list)
    for cell in row:
        status, value, reason = cell.score(metric)
        if value is None:
            without[status, reason].append(cell.spec["seed"])
        else:
            values[cell.spec["seed"]] = value
    told = [_note(status, reason, _some(seeds, row)) for (status, reason), seeds in without.items()]
    one_by_one = [cell.spec["seed"] for cell in row if cell.spec["seed"] in values and cell.one_by_one]
    if one_by_one:
        told.append(f"{_seeds(_some(one_by_one, row))}fitted with one image at a time: more did not fit into memory")
    numbers = []
    for note in told:
        if note not in notes:
            notes.append(note)
        numbers.append(notes.index(note) + 1)
    if not values:
        gravest = min((status for status, _ in without), key=_GRAVEST.index)
        return Entry(gravest, notes=tuple(numbers))
    spread = statistics.stdev(values.values()) if len(values) > 1 else None
    return Entry("ok", statistics.fmean(values.values()), spread, tuple(values), tuple(numbers))


def with_interval(
    entry: Entry, row: Sequence[CellRecord], metric: str, store: Store, notes: list[str], kinds: dict[str, str]
) -> Entry:
    """Return the entry of a table with its interval, or with a footnote why it has none.

    Args:
        entry: of these cells.
        row: cells that differ in the seed.
        metric: of the entry.
        store: contains the cells' tables.
        notes: footnotes; new ones are added.
        kinds: learns over which units the interval is: metric -> ``images``, ``classes``, ...
    """
    scored = [(cell, cell.score(metric)[1]) for cell in row]
    values = [(cell, value) for cell, value in scored if value is not None]
    if not values:
        return entry
    facts = values[0][0].spec["metrics"][metric]
    try:
        found = over_seeds(metric, facts, [(store.files(cell.name), value) for cell, value in values])
    except NoInterval as error:
        note = f"no interval: {error}"
        if note not in notes:
            notes.append(note)
        return replace(entry, notes=(*entry.notes, notes.index(note) + 1))
    kinds[metric] = found.kind
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
    return f"{which}{_PLAIN[status]}{f': {reason}' if reason else ''}"


def _some(seeds: list[int], row: list[CellRecord]) -> list[int]:
    """Return the seeds that have to be named, because they are not all of the row."""
    return seeds if len(seeds) < len(row) else []


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} " if seeds else ""
