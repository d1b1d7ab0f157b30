"""A table with all that is said about it, before it is text, Markdown or anything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "n/a", "failed", "oom", "missing"]


@dataclass(frozen=True)
class Column:
    """A metric.

    Attributes:
        definition: its version and parameters; empty where no row could be measured.
        tolerance: of an axiom: a residual that is not above it is nothing but rounding.
    """

    metric: str
    unit: str
    higher_is_better: bool
    definition: str
    tolerance: float | None = None

    @classmethod
    def of(cls, metric: str, facts: Mapping[str, Any], definition: str) -> Column:
        """The column of what a cell says of a metric."""
        tolerance = facts.get("parameters", {}).get("tolerance")
        return cls(metric, facts["unit"], facts.get("higher_is_better", True), definition, tolerance)

    @property
    def digits(self) -> str:
        """How its numbers are printed: percentages with one decimal; what plugins measure may be far below 0.1."""
        return {"%": ".1f", "0 to 1": ".2f"}.get(self.unit, ".4g")

    def printed(self, value: float) -> float:
        """The value as far as a reader sees it: what looks the same, or holds alike, counts as the same."""
        return 0.0 if self.within(value) else float(format(value, self.digits))

    def within(self, value: float) -> bool:
        """Whether a residual is so small that the axiom holds."""
        return self.tolerance is not None and value <= self.tolerance


@dataclass(frozen=True)
class Entry:
    """One number of the table, or why there is none.

    Attributes:
        status: ``ok`` where at least one seed has a value.
        value: mean over the seeds.
        spread: their standard deviation (n - 1), where there is more than one.
        seeds: those behind the value.
        notes: numbers of the footnotes, from 1.
        best: whether no method has a better one.
        low: lower end of the 95 % interval, where it was asked for and there is one.
        high: upper end.
    """

    status: Status
    value: float | None = None
    spread: float | None = None
    seeds: tuple[int, ...] = ()
    notes: tuple[int, ...] = ()
    best: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """One row: ``backbone`` is empty where the method looks at none."""

    label: str
    role: str
    backbone: str
    entries: Mapping[str, Entry]

    @property
    def name(self) -> str:
        """The label, and the role of what does not compete."""
        return self.label if self.role == "method" else f"{self.label} ({self.role})"


@dataclass(frozen=True)
class Block:
    """One table.

    Attributes:
        title: the data set, and what sets this block apart from others of the same data set.
        columns: left to right.
        lines: top to bottom.
        notes: footnotes; the first one is number 1.
        warnings: where a content-free control does as well as a method.
        facts: what every number of the block shares.
    """

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    facts: tuple[str, ...]
