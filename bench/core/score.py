"""What a metric gives, and how its numbers follow from its tables: all that intervals and tests need."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Column = str | Callable[[Mapping[str, Any]], Any]
"""A column of a table, by its name or worked out from all of them: a number per row, or several ``(rows, M)``."""


@dataclass(frozen=True)
class Score:
    """A metric's result: the value, and what it is made of, so that intervals never need a second run.

    Attributes:
        value: the score in the metric's unit; NaN is not a score (raise :class:`bench.contract.CellError` instead).
        n: how many items were averaged.
        items: named tables, each a mapping column -> array of equal length (for example ``prototype``, ``image``).
        also: further numbers about the same thing, rows ``METRIC.NAME`` in ``results``.
    """

    value: float
    n: int
    items: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    also: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Aggregate:
    """A number that is a function of means over the rows of one table of a score.

    Rows that share an image or a class are not independent of each other. ``by`` says which rows belong together; such
    a unit is drawn as a whole when intervals are made, and is what two methods are paired by.

    Attributes:
        table: its name in ``Score.items``.
        column: what is averaged.
        by: the column that names a row's unit: ``index`` (the test image), ``class`` or ``prototype``.
        weight: of a row; by default each counts once. A row of weight 0 is left out, whatever its columns say.
        scale: what the result is multiplied by.
        combine: means ``(..., M)`` -> ``(...)``, where there are several; by default there is one.
        limits: smallest and largest value that a unit can have, in the number's own unit, where there are such.
        higher_is_better: direction, where it is not that of the metric; ``None`` for the metric's, and for further
            numbers none at all.
    """

    table: str
    column: Column
    by: str
    weight: Column | None = None
    scale: float = 1.0
    combine: Callable[[Any], Any] | None = None
    limits: tuple[float, float] | None = None
    higher_is_better: bool | None = None


def share(table: str, column: Column, by: str, **more: Any) -> Aggregate:
    """A mean of numbers between 0 and 1 in percent, for example of a column that says yes or no."""
    return Aggregate(table, column, by, scale=100.0, limits=(0.0, 100.0), **more)


def write_table(file: Path, columns: Mapping[str, Any]) -> None:
    """A table of a score as CSV; arrays and tensors as plain numbers."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lists: list[list[Any]] = [_plain(values) for values in columns.values()]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*lists, strict=True))


def _plain(values: Any) -> list[Any]:
    to_list: Callable[[], list[Any]] | None = getattr(values, "tolist", None)
    return to_list() if to_list is not None else list(values)
