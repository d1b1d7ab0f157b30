"""Table with the paper's numbers beside the measured ones, independent of the output format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bench.report.paper_tables.published import Published
from bench.report.table import Block
from bench.results.aggregate import Entry

Role = Literal["method", "summary", "reference", "control"]


@dataclass(frozen=True)
class Heading:
    """Column; neighbours of one ``group`` are under its name."""

    name: str
    unit: str = ""
    group: str = ""


@dataclass(frozen=True)
class Field:
    """One place of the table.

    Attributes:
        entry: the measured value; ``None``: nothing was asked for here.
        published: the paper's number.
        comparable: whether the two are about the same images, so that their difference is meaningful.
        digits: how numbers are printed.
        tolerance: given for an axiom: the value is a residual, and the axiom holds if it is not above this.
    """

    entry: Entry | None = None
    published: Published | None = None
    comparable: bool = True
    digits: str = ".1f"
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
class Row:
    """One row: its name, its role, and a field for each column."""

    name: str
    role: Role
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Sheet:
    """One table of the paper, over cells that may be compared.

    Attributes:
        number: number of the paper's table.
        title: title with the differences from other sheets of the same table.
        stub: the heading of the rows' names.
        notes: footnotes; the first one is number 1.
        warnings: cautions before comparing.
        facts: facts that all numbers share.
        missing: missing numbers, each with the command that would produce it.
    """

    number: int
    title: str
    stub: str
    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Names of neighbouring columns' groups, and the number of columns of each."""
        found: list[tuple[str, int]] = []
        for heading in self.headings:
            if found and found[-1][0] == heading.group:
                found[-1] = (heading.group, found[-1][1] + 1)
            else:
                found.append((heading.group, 1))
        return found


def sheet_of(block: Block) -> Sheet:
    """Return the comparison table of a run as a sheet without published numbers, for its LaTeX and HTML renderers."""
    columns = block.columns
    rows = tuple(
        Row(
            f"{line.label}, {line.backbone}" if line.backbone else line.label,
            line.role,  # type: ignore[arg-type]
            tuple(Field(line.entries[one.metric], digits=one.digits, tolerance=one.tolerance) for one in columns),
        )
        for line in block.lines
    )
    headings = tuple(Heading(one.metric, one.unit) for one in columns)
    warnings = tuple(f"Chance level, {warning}" for warning in block.warnings)
    return Sheet(0, block.title, "method", headings, rows, block.notes, warnings, block.facts)


def marked(fields: Sequence[Field]) -> list[Field]:
    """Mark the best (largest) field if at least two compete; fields printed alike are marked alike."""
    printed = [None if f.entry is None or f.entry.value is None else format(f.entry.value, f.digits) for f in fields]
    there = [float(text) for text in printed if text is not None]
    if len(there) < 2:
        return list(fields)
    return [
        replace(field, entry=replace(field.entry, best=True))
        if field.entry is not None and text is not None and float(text) == max(there)
        else field
        for field, text in zip(fields, printed, strict=True)
    ]
