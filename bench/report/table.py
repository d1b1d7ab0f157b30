"""Table of results with all its remarks, independent of the output format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from bench.results.aggregate import Entry

if TYPE_CHECKING:
    from bench.report.paper_tables.published import Published

_DIGITS = {"%": ".1f", "0 to 1": ".2f"}


@dataclass(frozen=True)
class Column:
    """One column; neighbours of one ``group`` are under its name.

    Attributes:
        name: of a metric, a backbone, a method.
        digits: format of its numbers; default: one decimal of percentages, else four digits, since values of plugins
            may be far below 0.1.
        definition: version and parameters of a metric; empty if no row could be measured.
        tolerance: of an axiom: a residual that is not above it is nothing but rounding.
        words: whether it holds words, which are aligned left and may be broken.
    """

    name: str
    unit: str = ""
    group: str = ""
    digits: str = ""
    higher_is_better: bool = True
    definition: str = ""
    tolerance: float | None = None
    words: bool = False

    @classmethod
    def of(cls, metric: str, facts: Mapping[str, Any], definition: str) -> Column:
        """Return the column of a metric, from its facts in a cell."""
        tolerance = facts.get("parameters", {}).get("tolerance")
        higher = facts.get("higher_is_better", True)
        return cls(metric, facts["unit"], higher_is_better=higher, definition=definition, tolerance=tolerance)

    @property
    def key(self) -> str:
        """Key of its values in a row."""
        return f"{self.group}/{self.name}" if self.group else self.name

    @property
    def form(self) -> str:
        """Format of its numbers."""
        return self.digits or _DIGITS.get(self.unit, ".4g")

    def printed(self, value: float) -> float:
        """Return the value as a reader sees it: values that look the same, or hold alike, count as equal."""
        return 0.0 if self.within(value) else float(format(value, self.form))

    def within(self, value: float) -> bool:
        """Return whether a residual is so small that the axiom holds."""
        return self.tolerance is not None and value <= self.tolerance

    def vanishes(self, value: float) -> bool:
        """Return whether a number is a residual of nothing but rounding; a share in percent is no residual."""
        return self.tolerance is not None and not self.unit and abs(value) < self.tolerance


@dataclass(frozen=True)
class Value:
    """One place of a table that is more than a measured number in the format of its column.

    Attributes:
        entry: the measured value; ``None``: nothing was asked for here.
        published: a number printed elsewhere, which is shown below.
        comparable: whether the two are about the same images, so that their difference is meaningful.
        digits: format instead of the column's.
        tolerance: given for an axiom: the value is a residual, and the axiom holds if it is not above this.
    """

    entry: Entry | None = None
    published: Published | None = None
    comparable: bool = True
    digits: str = ""
    tolerance: float | None = None

    @property
    def difference(self) -> float | None:
        """Measured less published, if that is a number."""
        if not self.comparable or self.tolerance is not None or self.entry is None or self.published is None:
            return None
        ours, theirs = self.entry.value, self.published.value
        return None if ours is None or theirs is None else ours - theirs

    @property
    def holds(self) -> bool | None:
        """Whether the axiom holds; ``None`` if it was not measured or this is no axiom."""
        if self.tolerance is None or self.entry is None or self.entry.value is None:
            return None
        return self.entry.value <= self.tolerance


@dataclass(frozen=True)
class Word:
    """One place that holds a word, with the numbers of its footnotes."""

    text: str
    notes: tuple[int, ...] = ()


Place = Entry | Value | Word


@dataclass(frozen=True)
class Row:
    """One row: ``values`` by :attr:`Column.key`; ``backbone`` is empty if it has none.

    The role is ``method`` for what competes, ``summary``, ``reference`` or ``control``.
    """

    label: str
    values: Mapping[str, Place]
    role: str = "method"
    backbone: str = ""

    @property
    def name(self) -> str:
        """Label, with the role if it is neither a method nor computed from some."""
        return self.label if self.role in ("method", "summary") else f"{self.label} ({self.role})"

    def value(self, column: Column) -> Value:
        """Return the value in a column, an empty one where there is a word or nothing."""
        place = self.values.get(column.key)
        return Value(place) if isinstance(place, Entry) else place if isinstance(place, Value) else Value()

    def entry(self, column: Column) -> Entry | None:
        """Return the measured number in a column, or the reason why there is none."""
        return self.value(column).entry

    def number(self, column: Column) -> float | None:
        """Return the measured number in a column, if there is one."""
        entry = self.entry(column)
        return None if entry is None else entry.value


@dataclass(frozen=True)
class Table:
    """One table; its renderers are in :mod:`bench.report.renderers`.

    Attributes:
        title: the data set, and the differences from other tables of the same data set.
        columns: left to right.
        rows: top to bottom, those of one role together.
        stub: headings of the rows' names; the second one is of their backbones.
        notes: footnotes; the first one is number 1.
        chance: metrics in which a content-free control does as well as a method.
        warnings: other cautions before comparing.
        facts: facts that all numbers share.
        missing: missing numbers, each with the command that would produce it.
        competes: whether the best method of each column is marked.
        foldable: whether columns that find no room on a terminal continue below.
        number: number of the table in the paper, 0 for others.
        caption: of a LaTeX table, instead of the title.
        label: name of a LaTeX table.
        rename: names of rows, columns, groups, backbones and units -> names that are printed instead.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    stub: tuple[str, ...] = ("method",)
    notes: tuple[str, ...] = ()
    chance: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    competes: bool = False
    foldable: bool = True
    number: int = 0
    caption: str = ""
    label: str = ""
    rename: Mapping[str, str] = field(default_factory=dict)

    @property
    def cautions(self) -> tuple[str, ...]:
        """All cautions, in the order of printing."""
        return (*self.warnings, *(f"Chance level, {text}" for text in self.chance))

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Names of neighbouring columns' groups, and the number of columns of each."""
        return [(name, len(list(members))) for name, members in groupby(column.group for column in self.columns)]

    @property
    def has_best(self) -> bool:
        """Whether some place is emphasised."""
        entries = (row.entry(column) for row in self.rows for column in self.columns)
        return any(entry is not None and entry.best for entry in entries)

    def marked(self) -> Table:
        """Return the table with the best method of each column marked, if methods compete in it."""
        rows = list(self.rows)
        for column in self.columns if self.competes else ():
            entries = mark_best([row.entry(column) if row.role == "method" else None for row in rows], column)
            for place, (row, entry) in enumerate(zip(rows, entries, strict=True)):
                if entry is not None:
                    own = row.values[column.key]
                    marked = replace(own, entry=entry) if isinstance(own, Value) else entry
                    rows[place] = replace(row, values={**row.values, column.key: marked})
        return replace(self, rows=tuple(rows))


def vanishing(number: float) -> str:
    """Return a residual below the tolerance of its axiom as zero with a bound, a power of ten that it is below.

    Example:
        >>> vanishing(6.5e-16), vanishing(2e-6), vanishing(0.0)
        ('0 (< 1e-12)', '0 (< 1e-05)', '0')
    """
    # Below 1e-12 it is rounding of float64: how much of it says nothing.
    return f"0 (< {max(1e-12, 10.0 ** (math.floor(math.log10(abs(number))) + 1)):.0e})" if number else "0"


def mark_best(entries: Sequence[Entry | None], column: Column) -> list[Entry | None]:
    """Mark the best entry if at least two compete; values printed alike are marked alike, collapsed ones never."""
    entries = [entry and replace(entry, best=False) for entry in entries]
    competing = [entry is not None and entry.value is not None and not entry.collapsed for entry in entries]
    values = [entry.value for entry, competes in zip(entries, competing, strict=True) if competes]  # type: ignore[union-attr]
    # An axiom that holds for all of them has no best.
    if len(values) < 2 or all(map(column.within, values)):
        return entries
    best = (max if column.higher_is_better else min)(map(column.printed, values))
    return [
        replace(entry, best=column.printed(entry.value) == best) if competes else entry  # type: ignore[arg-type,type-var]
        for entry, competes in zip(entries, competing, strict=True)
    ]
