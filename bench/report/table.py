"""Table with all its remarks, independent of the output format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.results.aggregate import Column, Entry


@dataclass(frozen=True)
class Line:
    """One row: ``backbone`` is empty if the method uses none."""

    label: str
    role: str
    backbone: str
    entries: Mapping[str, Entry]

    @property
    def name(self) -> str:
        """Label, with the role if it does not compete."""
        return self.label if self.role == "method" else f"{self.label} ({self.role})"


@dataclass(frozen=True)
class Block:
    """One table.

    Attributes:
        title: the data set, and the differences from other blocks of the same data set.
        columns: left to right.
        lines: top to bottom.
        notes: footnotes; the first one is number 1.
        warnings: metrics in which a content-free control does as well as a method.
        facts: facts that all numbers of the block share.
    """

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    facts: tuple[str, ...]
