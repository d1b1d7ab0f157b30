"""The comparison of one invocation: which rows stand side by side, and what has to be said under them.

A block is one data set seen in one way. Its rows are methods, then what they are compared with, then content-free
controls; its columns are metrics of one definition each. What does not fit into one column becomes another block.
"""

from __future__ import annotations

import functools
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench import registry
from bench.bootstrap import NoInterval
from bench.errors import RequestError
from bench.report.block import Block, Column, Entry, Line, Status
from bench.report.chance import chance_warnings
from bench.report.facts import definition, describe_block, distinguish, fewer_seeds
from bench.report.grouping import text_of, together
from bench.report.intervals import over_seeds
from bench.store import Store

FIRST = ("accuracy", "consistency", "consistency_pooled", "consistency_controlled", "stability", "stability_pooled")
_ROLES = ("method", "reference", "control")
_PLAIN = {"n/a": "n/a", "failed": "failed", "oom": "out of memory", "missing": "not finished"}
_GRAVEST: tuple[Status, ...] = ("oom", "failed", "missing", "n/a")
_LONGEST_REASON = 240


@dataclass(frozen=True)
class Found:
    """One cell as the store has it."""

    name: str
    written: dict[str, Any]
    outcome: dict[str, Any] | None
    failure: dict[str, Any] | None

    @functools.cached_property
    def spec(self) -> dict[str, Any]:
        """Everything that changes its result."""
        return dict(self.written["spec"])

    @functools.cached_property
    def definitions(self) -> dict[str, str]:
        """Metric -> version and parameters."""
        return {metric: definition(metric, facts) for metric, facts in self.spec["metrics"].items()}

    @property
    def one_by_one(self) -> bool:
        """Whether it was fitted in batches of one image, which is not what its settings say."""
        return self.outcome is not None and "batch_size_after_out_of_memory" in self.outcome["facts"]

    def score(self, metric: str) -> tuple[Status, float | None, str]:
        """Status, value, and the reason where there is no value."""
        refused = self.written["not_applicable"].get(metric)
        if refused is not None:
            # "random predicts no class" and "center predicts no class" are one footnote, not two.
            return "n/a", None, str(refused["reason"]).removeprefix(f"{self.spec['method']} ")
        if metric not in self.spec["metrics"]:
            return "missing", None, "not measured in this cell"
        if self.outcome is not None and metric in self.outcome.get("not_applicable", {}):
            return "n/a", None, str(self.outcome["not_applicable"][metric])
        if self.outcome is not None:
            return "ok", float(self.outcome["scores"][metric]["value"]), ""
        if self.failure is not None:
            return self.failure["status"], None, str(self.failure["reason"])
        return "missing", None, ""


def comparison(
    store: Store,
    stamp: str | None = None,
    suite: str | None = None,
    intervals: bool = False,
    metrics: Sequence[str] = (),
) -> list[Block]:
    """The tables of one invocation.

    Args:
        store: where the results lie.
        stamp: of the invocation; by default the latest one.
        suite: of which the latest is taken.
        intervals: whether to work them out.
        metrics: names and groups of the columns; by default all that were measured.

    Raises:
        RequestError: where there is nothing to compare.
        UnknownName: for a metric that there is not.
    """
    known, stamp = store.invocations(), store.chosen_run(stamp, suite)
    there = set(store.cells())
    names = [name for name in known[stamp]["cells"] if name in there]
    cells = find_all(store, names)
    damaged = [store.faults[name] for name in names if name in store.faults]
    if not cells:
        if damaged:
            raise RequestError(f"no cell of {stamp} can be read, of {len(damaged)}; the first: {damaged[0]}")
        raise RequestError(f"no cell of {stamp} is on disk any more; call `run` again")
    lost = len(known[stamp]["cells"]) - len(names)
    found = together((cell, cell.spec, cell.definitions) for cell in cells)
    groups = [members for _, members in found]
    titles = distinguish([group[0].spec for group in groups], [definitions for definitions, _ in found])
    origin = [f"run: {stamp}, suite {known[stamp]['suite']}"]
    if lost:
        origin.append(f"{lost} cell{'s' * (lost > 1)} of this run {'are' if lost > 1 else 'is'} no longer on disk")
    origin += [f"failed: {reason}" for reason in damaged]
    where = store if intervals else None
    columns = [_chosen(columns_of(group), metrics) for group in groups]
    if not any(columns):
        every = sorted({column.metric for group in groups for column in columns_of(group)})
        raise RequestError(f"{', '.join(metrics)}: not measured in this run; it has {', '.join(every)}")
    found_blocks = zip(titles, groups, columns, strict=True)
    return [_block(title, group, own, origin, where) for title, group, own in found_blocks if own]


def _chosen(columns: tuple[Column, ...], metrics: Sequence[str]) -> tuple[Column, ...]:
    measured = {column.metric for column in columns}
    wanted = {name for one in metrics for name in ([one] if one in measured else registry.chosen_metrics([one], True))}
    return tuple(column for column in columns if column.metric in wanted) if metrics else columns


def find_all(store: Store, names: Iterable[str]) -> list[Found]:
    """Cells with their results or failures; of those whose description is damaged, ``store.faults`` tells."""
    records = map(store.record, names)
    return [Found(one.name, one.written, one.result, one.failure) for one in records if one.written is not None]


def _definitions(group: Iterable[Found]) -> dict[str, str]:
    return {metric: text for cell in group for metric, text in cell.definitions.items()}


def _block(
    title: str, group: list[Found], columns: tuple[Column, ...], origin: list[str], store: Store | None
) -> Block:
    notes: list[str] = []
    rows = _rows(group)
    lines = [_line(row, columns, notes) for row in rows]
    if store is not None:
        kinds: dict[str, str] = {}
        lines = [_bounded(line, row, store, notes, kinds) for line, row in zip(lines, rows, strict=True)]
        origin = [*about_intervals(kinds), *origin]
    lines = mark_best(_told_apart(lines, rows), columns)
    origin = [*_black_boxes(group), *origin]
    facts = describe_block(
        [column.definition for column in columns if column.definition],
        [cell.spec for cell in group],
        [cell.outcome for cell in group if cell.outcome is not None],
        fewer=fewer_seeds(
            [
                (line.label, line.backbone, [cell.spec["seed"] for cell in row])
                for line, row in zip(lines, rows, strict=True)
            ]
        ),
    )
    return Block(title, columns, tuple(lines), tuple(notes), tuple(chance_warnings(lines, columns)), (*facts, *origin))


def _black_boxes(group: Iterable[Found]) -> list[str]:
    """Lines about cells that should have decomposed one classifier and did not: it was trained again in between."""
    labels: dict[tuple[int, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for cell in group:
        digest = (cell.outcome or {}).get("black_box")
        if digest:
            labels[cell.spec["seed"], cell.written["black_box_id"]][digest].append(cell.written["label"])
    return [
        f"seed {seed}: the black box was trained again in between, and came out with other weights: "
        + " | ".join(", ".join(own) for own in digests.values())
        for (seed, _), digests in labels.items()
        if len(digests) > 1
    ]


def columns_of(group: Sequence[Found]) -> tuple[Column, ...]:
    """The metrics that were asked for in some cell, the usual ones first."""
    refused = {metric: facts for cell in group for metric, facts in cell.written["not_applicable"].items()}
    measured = {metric: facts for cell in group for metric, facts in cell.spec["metrics"].items()}
    facts, texts = {**refused, **measured}, _definitions(group)
    names = sorted(facts, key=lambda name: (_place(name, FIRST), name))
    return tuple(Column.of(name, facts[name], texts.get(name, "")) for name in names)


def _rows(group: list[Found]) -> list[list[Found]]:
    """Cells that differ in nothing but the seed, in the order of the plan within each role."""
    rows: dict[str, list[Found]] = defaultdict(list)
    for cell in group:
        rows[text_of([{**cell.spec, "seed": None}, cell.written["label"]])].append(cell)
    ordered = sorted(rows.values(), key=lambda row: _place(row[0].written["role"], _ROLES))
    return [sorted(row, key=lambda cell: cell.spec["seed"]) for row in ordered]


def _line(row: list[Found], columns: Sequence[Column], notes: list[str]) -> Line:
    first = row[0]
    entries = {column.metric: as_entry(row, column.metric, notes) for column in columns}
    return Line(first.written["label"], first.written["role"], first.spec["backbone"] or "", entries)


def as_entry(row: Sequence[Found], metric: str, notes: list[str]) -> Entry:
    """One place of a table: mean and spread over the seeds of a row, or why there is none.

    Footnotes that are new are added to ``notes``.
    """
    values: dict[int, float] = {}
    without: dict[tuple[Status, str], list[int]] = defaultdict(list)
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


def _bounded(line: Line, row: list[Found], store: Store, notes: list[str], kinds: dict[str, str]) -> Line:
    """The row with intervals; ``kinds`` learns over which units those of each metric are."""
    entries = {metric: with_interval(entry, row, metric, store, notes, kinds) for metric, entry in line.entries.items()}
    return replace(line, entries=entries)


def with_interval(
    entry: Entry, row: Sequence[Found], metric: str, store: Store, notes: list[str], kinds: dict[str, str]
) -> Entry:
    """The place of a table with its interval, or with a footnote why it has none.

    Args:
        entry: of these cells.
        row: cells that differ in the seed.
        metric: whose place it is.
        store: where the cells' tables lie.
        notes: footnotes; new ones are added.
        kinds: learns over which units the interval is: metric -> ``images``, ``classes``, ...
    """
    scored = [(cell, cell.score(metric)[1]) for cell in row]
    values = [(cell, value) for cell, value in scored if value is not None]
    if not values:
        return entry
    facts = values[0][0].spec["metrics"][metric]
    try:
        found = over_seeds(metric, facts, [(store.cell(cell.name).result, value) for cell, value in values])
    except NoInterval as error:
        note = f"no interval: {error}"
        if note not in notes:
            notes.append(note)
        return replace(entry, notes=(*entry.notes, notes.index(note) + 1))
    kinds[metric] = found.kind
    return replace(entry, low=found.low, high=found.high)


def about_intervals(kinds: Mapping[str, str]) -> list[str]:
    """The line that says what the intervals of a table are, where it has some."""
    if not kinds:
        return []
    units = [
        f"{kind} ({', '.join(metric for metric, own in kinds.items() if own == kind)})"
        for kind in dict.fromkeys(kinds.values())
    ]
    return [
        f"[low, high]: 95 % interval, BCa bootstrap over {' and '.join(units)}, and over seeds where there are several"
    ]


def _note(status: Status, reason: str, seeds: list[int]) -> str:
    """The footnote's text; seeds are named where the others have a value or another reason."""
    which = _seeds(seeds)
    reason = " ".join(reason.split())
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[: _LONGEST_REASON - 1]}…"
    if status == "missing" and reason:
        return f"{which}{reason}"
    return f"{which}{_PLAIN[status]}{f': {reason}' if reason else ''}"


def _some(seeds: list[int], row: list[Found]) -> list[int]:
    """Seeds that have to be named, because they are not all of the row."""
    return seeds if len(seeds) < len(row) else []


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} " if seeds else ""


def _told_apart(lines: list[Line], rows: list[list[Found]]) -> list[Line]:
    """Rows of the same name get the id of their first cell, so that a table never shows two of one name."""
    count = Counter((line.label, line.backbone) for line in lines)
    return [
        replace(line, label=f"{line.label} #{row[0].name[:6]}") if count[line.label, line.backbone] > 1 else line
        for line, row in zip(lines, rows, strict=True)
    ]


def mark_best(lines: Sequence[Line], columns: Sequence[Column]) -> list[Line]:
    """Mark the best method of each column where at least two compete; what is printed alike is marked alike."""
    best: dict[str, float] = {}
    for column in columns:
        known = [line.entries[column.metric].value for line in lines if line.role == "method"]
        values = [value for value in known if value is not None]
        # An axiom that holds for all of them has no best.
        if len(values) > 1 and not all(map(column.within, values)):
            there = [column.printed(value) for value in values]
            best[column.metric] = max(there) if column.higher_is_better else min(there)

    def marked(line: Line, column: Column) -> Entry:
        entry = line.entries[column.metric]
        if line.role != "method" or column.metric not in best or entry.value is None:
            return entry
        return replace(entry, best=column.printed(entry.value) == best[column.metric])

    return [replace(line, entries={column.metric: marked(line, column) for column in columns}) for line in lines]


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)
