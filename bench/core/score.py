"""Score of a metric, and how its numbers follow from its tables, as confidence intervals and tests need it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from bench.core.errors import CellError

# Part of file names and of rows `METRIC.NAME`. No dot first: hidden files are leftovers of writing, and not results.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
_SHARE = (0.0, 100.0)
# Sums in floating point may leave their bounds by this much.
_ROUNDING = 1e-6

COMPLEMENT = "1 - "
# Column of a table: its name, ``"1 - NAME"`` of one that is 0 or 1, or a function of all columns: a number per row, or
# several ``(rows, M)``.
Column = str | Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Score:
    """Result of a metric with the items that it was computed from, so that intervals never need a second run.

    Attributes:
        value: the score in the metric's unit; NaN is not a score (raise :class:`bench.contract.CellError` instead).
        n: number of items that were averaged.
        items: named tables, each a mapping column -> array of equal length (for example ``prototype``, ``image``).
        also: further numbers of the same metric, rows ``METRIC.NAME`` in ``results``.
    """

    value: float
    n: int
    items: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    also: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Aggregate:
    """Number that is a function of means over the rows of one table of a score.

    Rows that share an image or a class are not independent of each other. ``by`` names the unit of each row: a unit is
    drawn as a whole in the bootstrap, and two methods are paired by units.

    Attributes:
        table: name of the table in ``Score.items``.
        column: column that is averaged.
        by: the column that names a row's unit: ``index`` (the test image), ``class`` or ``prototype``.
        weight: weight of each row; by default 1. A row of weight 0 is left out, regardless of its columns.
        scale: factor of the result.
        combine: function of several means, ``(..., M)`` -> ``(...)``; by default a single mean.
        limits: smallest and largest value that a unit can have, in the number's own unit, if there are bounds.
        higher_is_better: direction, if it differs from the metric's; ``None`` is the metric's direction for its value
            and no direction for further numbers.
    """

    table: str
    column: Column
    by: str
    weight: Column | None = None
    scale: float = 1.0
    combine: Callable[[Any], Any] | None = None
    limits: tuple[float, float] | None = None
    higher_is_better: bool | None = None


def column_of(table: Mapping[str, Any], which: Column) -> Any:
    """Return a column of a table, by its name, as the complement of one, or as a function of all."""
    if not isinstance(which, str):
        return which(table)
    return 1 - table[which.removeprefix(COMPLEMENT)] if which.startswith(COMPLEMENT) else table[which]


def share(table: str, column: Column, by: str, **more: Any) -> Aggregate:
    """Return the mean of numbers between 0 and 1 in percent, for example of a boolean column."""
    return Aggregate(table, column, by, scale=100.0, limits=(0.0, 100.0), **more)


def validated(metric: str, score: Any, unit: str, declared: Mapping[str, Aggregate | str]) -> Score:
    """Return the score with plain numbers, after checking names, tables and limits.

    Args:
        metric: name of the metric.
        score: return value of ``compute``.
        unit: unit of the metric; a value in ``%`` is a share (0 to 100) unless its aggregate declares otherwise.
        declared: return value of the metric's ``aggregates``, of which the ``limits`` count here.

    Raises:
        CellError: with the metric and the rule that is broken.
    """
    if not isinstance(score, Score):
        raise CellError(f"{metric}: compute returns a {type(score).__name__}, no bench.contract.Score")
    if not isinstance(score.n, Integral) or isinstance(score.n, bool) or score.n < 0:
        raise CellError(
            f"{metric}: n is {score.n!r}; it is the number of items that were averaged: a whole number, 0 or more"
        )
    for kind, names in (("table", score.items), ("further number", score.also)):
        if not isinstance(names, Mapping):
            raise CellError(f"{metric}: its {kind}s are a {type(names).__name__}, no mapping from names")
        _check_names(metric, kind, names)
    for table, columns in score.items.items():
        _check_table(f"{metric}: table {table!r}", columns)
    numbers = {}
    for name, value in {"": score.value, **score.also}.items():
        label, aggregate = f"{metric}{'.' if name else ''}{name}", declared.get(name)
        numbers[name] = _number(label, value)
        limits = aggregate.limits if isinstance(aggregate, Aggregate) else _SHARE if unit == "%" and not name else None
        if limits is not None and not (limits[0] - _ROUNDING <= numbers[name] <= limits[1] + _ROUNDING):
            hint = "" if isinstance(aggregate, Aggregate) else (
                "; a number in % that is no share is declared as an Aggregate without limits, in `aggregates`"
            )  # fmt: skip
            raise CellError(f"{label} is {numbers[name]:g} {unit}, outside {limits[0]:g} to {limits[1]:g}{hint}")
    return Score(numbers.pop(""), int(score.n), dict(score.items), numbers)


def check_unique_names(scores: Mapping[str, Score]) -> None:
    """Refuse scores that would be written under one name, as rows of results or as files without regard to case.

    Raises:
        CellError: with the name.
    """
    rows = [*scores, *(f"{metric}.{name}" for metric, score in scores.items() for name in score.also)]
    files = [f"{metric}.{table}.csv" for metric, score in scores.items() for table in score.items]
    for kind, names in (("number", rows), ("table", files)):
        known: dict[str, str] = {}
        for name in names:
            if name.lower() in known:
                raise CellError(f"two metrics have a {kind} of the name {name}: rename one of them")
            known[name.lower()] = name


def _check_names(metric: str, kind: str, names: Iterable[Any]) -> None:
    known: set[str] = set()
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise CellError(
                f"{metric}: {kind} {str(name)[:80]!r}: names are up to 64 letters, digits, and . _ -, with no dot first"
            )
        if name.lower() in known:
            raise CellError(f"{metric}: two {kind}s are called {name!r}; upper and lower case count as one")
        known.add(name.lower())


def _check_table(table: str, columns: Any) -> None:
    if not isinstance(columns, Mapping):
        raise CellError(f"{table} is a {type(columns).__name__}, no mapping from columns to values")
    lengths: dict[str, int] = {}
    for name, values in columns.items():
        if not isinstance(name, str) or not name.isprintable() or not name:
            raise CellError(f"{table} has a column {str(name)[:80]!r}: names are printable text")
        if not _is_column(values):
            raise CellError(f"{table}, column {name!r}: one number or text for each row is expected")
        lengths[name] = len(values)
    if len(set(lengths.values())) > 1:
        raise CellError(f"{table} has columns of different lengths: {lengths}")


def _is_column(values: Any) -> bool:
    """Return whether these are numbers or texts in one dimension; arrays and tensors are judged by their type."""
    if isinstance(values, str | bytes | Mapping) or getattr(values, "ndim", 1) != 1 or not hasattr(values, "__len__"):
        return False
    kind = getattr(getattr(values, "dtype", None), "kind", None)
    if kind is not None and kind != "O":
        return bool(kind in "biufU")
    if hasattr(values, "is_complex"):
        return not values.is_complex()
    return all(isinstance(value, str | Real) or getattr(getattr(value, "dtype", None), "kind", "") == "b"
               for value in values)  # fmt: skip


def _number(label: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise CellError(f"{label} is a {type(value).__name__}; a plain number is expected")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise CellError(f"{label} is {number}")
    return number


def write_table(file: Path, columns: Mapping[str, Any]) -> None:
    """Write a table of a score as CSV; arrays and tensors as plain numbers."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(table_text(columns), newline="")


def table_text(columns: Mapping[str, Any]) -> str:
    r"""Return a table of a score as CSV; each float with the shortest digits that give it again.

    Example:
        >>> table_text({"index": [0, 1], "gap": [0.1, float("nan")]})
        'index,gap\n0,0.1\n1,nan\n'
    """
    lists: list[list[Any]] = [_plain(values) for values in columns.values()]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*lists, strict=True))
    return stream.getvalue()


def _plain(values: Any) -> list[Any]:
    to_list: Callable[[], list[Any]] | None = getattr(values, "tolist", None)
    return to_list() if to_list is not None else list(values)
