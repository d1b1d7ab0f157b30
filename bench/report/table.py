"""A table with all that is said about it, before it is text, Markdown or anything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.results.aggregate import Column, Entry


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
