"""Printed words and digits of a table, in lines and columns, independent of the output format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from bench.report.table import Column, Place, Row, Table, Value, Word
from bench.results.labels import short_label

NOTHING = "-"
_WORDS = {"oom": "OOM"}


@dataclass(frozen=True)
class Shown:
    """One printed place.

    Attributes:
        head: the number, a word, or nothing.
        tail: text after a number: deviation, interval or difference.
        notes: numbers of its footnotes.
        best: whether it is emphasised.
        number: whether ``head`` has decimals to line up.
        word: whether it is a word, whose hyphens are no minus signs.
    """

    head: str
    tail: str = ""
    notes: tuple[int, ...] = ()
    best: bool = False
    number: bool = False
    word: bool = False

    @property
    def text(self) -> str:
        """Text without footnotes and emphasis."""
        return self.head + self.tail


@dataclass(frozen=True)
class Line:
    """One printed line: measured values, or their intervals or the paper's values below them.

    Attributes:
        names: of the row, and of its backbone if the table has a column for it.
        below: whether it belongs to the line above it.
    """

    names: tuple[str, ...]
    role: str
    below: bool
    places: tuple[Shown, ...]


@dataclass(frozen=True)
class Layout:
    """A table as it is printed, with its names renamed and only the footnotes that some place refers to."""

    stub: tuple[str, ...]
    columns: tuple[Column, ...]
    groups: tuple[tuple[str, int], ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def sections(self) -> list[list[Line]]:
        """Lines with a rule between neighbours of different roles."""
        return [list(lines) for _, lines in groupby(self.lines, lambda line: line.role)]

    @property
    def pieces(self) -> list[list[int]]:
        """Columns that stay together: those of one group."""
        numbers = iter(range(len(self.columns)))
        groups = [[next(numbers) for _ in range(count)] for _, count in self.groups]
        return [piece for (name, _), group in zip(self.groups, groups, strict=True)
                for piece in ([group] if name else [[one] for one in group])]  # fmt: skip


def layout(table: Table, beside: bool = False, typeset: bool = False) -> Layout:
    """Return the printed lines of a table.

    Args:
        table: the table.
        beside: whether intervals are beside the values, instead of on lines of their own.
        typeset: whether minus signs and dashes are typographic ones; programs read hyphens.
    """

    def called(name: str) -> str:
        return table.rename.get(name, name)

    lines = [line for row in table.rows for line in _lines(table, row, beside)]
    used = sorted({number for line in lines for place in line.places for number in place.notes})
    numbers = {old: new for new, old in enumerate(used, 1)}
    lines = [
        replace(line, places=tuple(replace(one, notes=tuple(map(numbers.get, one.notes))) for one in line.places))
        for line in lines
    ]
    lines = list(map(_typeset, lines)) if typeset else lines
    columns = tuple(
        replace(one, name=called(one.name), unit=called(one.unit), group=called(one.group)) for one in table.columns
    )
    groups = tuple((called(name), count) for name, count in table.groups)
    notes = tuple(table.notes[number - 1] for number in used)
    return Layout(tuple(map(called, table.stub)), columns, groups, tuple(lines), notes)


def fold(pieces: Sequence[Sequence[int]], sizes: Sequence[int], room: int) -> list[list[int]]:
    """Return columns that fit beside each other, in their order.

    Args:
        pieces: columns that stay together, unless they are wider than the room.
        sizes: width of each column, with the blanks beside it.
        room: width for all of them.
    """
    folded: list[list[int]] = [[]]
    for piece in pieces:
        wide = sum(sizes[column] for column in piece) > room
        for part in [[column] for column in piece] if wide else [piece]:
            if folded[-1] and sum(sizes[column] for column in [*folded[-1], *part]) > room:
                folded.append([])
            folded[-1] += part
    return folded


def _lines(table: Table, row: Row, beside: bool) -> Iterator[Line]:
    values = [row.value(column) for column in table.columns]
    label = table.rename.get(row.label, row.label)
    name = replace(row, label=label).name
    more = (table.rename.get(row.backbone, row.backbone) or NOTHING,) * (len(table.stub) - 1)
    blank = ("",) * len(more)
    measured = any(value.entry is not None for value in values)
    published = any(value.published is not None for value in values)
    if measured or not published:
        places = (_shown(row.values.get(column.key), column, beside) for column in table.columns)
        yield Line((name, *more), row.role, False, tuple(places))
    if not beside and any(value.entry is not None and value.entry.low is not None for value in values):
        intervals = (Shown(_interval(*pair)) for pair in zip(values, table.columns, strict=True))
        yield Line(("95 % interval", *blank), row.role, True, tuple(intervals))
    if published:
        differs = any(value.difference is not None for value in values)
        below = "Tan et al. 2024 (difference)" if differs else "Tan et al. 2024"
        names = (below, *blank) if measured else (f"{name} (Tan et al. 2024)", *more)
        printed = (_published(*pair) for pair in zip(values, table.columns, strict=True))
        yield Line(names, row.role, measured, tuple(printed))


def _typeset(line: Line) -> Line:
    def signs(text: str) -> str:
        return "–" if text == NOTHING else text.replace("-", "−")

    places = (one if one.word else replace(one, head=signs(one.head), tail=signs(one.tail)) for one in line.places)
    names = (line.names[0], *("–" if name == NOTHING else name for name in line.names[1:]))
    return replace(line, names=names, places=tuple(places))


def _shown(place: Place | None, column: Column, beside: bool) -> Shown:
    if isinstance(place, Word):
        return Shown(place.text, notes=place.notes, word=True)
    value = place if isinstance(place, Value) else Value(place)
    entry, digits = value.entry, value.digits or column.form
    if entry is None:
        return Shown(NOTHING)
    if entry.value is None:
        return Shown(_WORDS.get(entry.status, entry.status), notes=entry.notes)
    if value.tolerance is not None:
        return Shown(f"{_tick(value.holds)} {_residual(entry.value, value.tolerance)}", notes=entry.notes)
    tail = "" if entry.spread is None else f" ± {entry.spread:{digits.lstrip('+')}}"
    interval = _interval(value, column) if beside else ""
    return Shown(number(entry.value, digits), tail + f" {interval}" * bool(interval), entry.notes, entry.best, True)


def _interval(value: Value, column: Column) -> str:
    entry, digits = value.entry, value.digits or column.form
    if entry is None or entry.low is None or entry.high is None:
        return ""
    return f"[{number(entry.low, digits)}, {number(entry.high, digits)}]"


def _published(value: Value, column: Column) -> Shown:
    printed = value.published
    if printed is None:
        return Shown("")
    if printed.value is None:
        return Shown("OOM" if printed.status == "oom" else NOTHING)
    if value.tolerance is not None:
        other = value.holds is not None and value.holds != bool(printed.value)
        return Shown(_tick(bool(printed.value)), " (differs)" if other else "")
    digits = value.digits or column.form
    difference = "" if value.difference is None else f" ({number(value.difference, '+' + digits.lstrip('+'))})"
    return Shown(number(printed.value, digits), difference, number=True)


def _tick(holds: bool | None) -> str:
    return "✓" if holds else "×"


def number(value: float, digits: str) -> str:
    """Format a number, without a minus sign before one that rounds to zero; a difference keeps its sign there."""
    text = format(value, digits)
    return text.lstrip("-") if float(text) == 0 and not digits.startswith("+") else text


def _residual(value: float, tolerance: float) -> str:
    """Format with as many digits as show on which side of the tolerance it is."""
    form = "f" if value == 0 or value >= 0.01 else "e"
    texts = (format(value, f".{digits}{form}") for digits in range(2 if form == "f" else 0, 17))
    return next(text for text in texts if value <= tolerance or float(text) > tolerance)


def shortened(table: Table) -> Table:
    """Return the table with the settings of long labels counted (``protopnet (3 settings)``) and listed under it.

    Rows that would have one name get numbers.
    """
    labels = dict.fromkeys(row.label for row in table.rows if row.label not in table.rename)
    long = [label for label in labels if short_label(label) != label]
    count, names = Counter(map(short_label, long)), dict[str, str]()
    for label in long:
        short = short_label(label)
        number = sum(short_label(other) == short for other in names) + 1
        names[label] = f"{short} {number}" if count[short] > 1 else short

    def short_in(texts: Sequence[str]) -> tuple[str, ...]:
        # The longest first: one label may begin another.
        for label in sorted(names, key=len, reverse=True):
            texts = [text.replace(label, names[label]) for text in texts]
        return tuple(texts)

    legend = [f"{short}: {label.partition(' (')[2].removesuffix(')')}" for label, short in names.items()]
    return replace(
        table, rename={**names, **table.rename}, notes=short_in(table.notes), chance=short_in(table.chance),
        warnings=short_in(table.warnings), facts=(*legend, *short_in(table.facts)),
    )  # fmt: skip
