"""Samples behind the numbers of a finished cell, from its per-item tables; no model is run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.core import registry
from bench.core.integrity import Changed
from bench.core.score import Aggregate, column_of
from bench.results.result_files import NotNumbers, ResultFiles
from bench.results.stats.bootstrap import NoInterval, Sample, sample
from bench.results.stats.declarations import declaration

_PLURAL = {"index": "images", "class": "classes", "prototype": "prototypes"}
# Relative distance within which the table still gives the stored number.
_CLOSE = 1e-6


def sample_of(declared: Aggregate, table: Mapping[str, Any], value: float) -> Sample:
    """Return the units of which a number is made.

    Args:
        declared: how it follows from the table.
        table: column -> array.
        value: the number, as it was measured.

    Raises:
        NoInterval: if the table gives another number, or lacks a column.
    """

    def column(which: Any) -> Any:
        try:
            return column_of(table, which)
        except KeyError as error:
            raise NoInterval(f"its table has no column {error}: it was written by an earlier version") from error

    def combine(means: Any) -> Any:
        return declared.scale * (means[..., 0] if declared.combine is None else declared.combine(means))

    found = sample(
        column(declared.by),
        column(declared.column),
        None if declared.weight is None else column(declared.weight),
        combine,
        declared.limits,
        _PLURAL.get(declared.by, f"units ({declared.by})"),
    )
    if not abs(found.value - value) <= _CLOSE * max(1.0, abs(value)):
        raise NoInterval(f"its table gives {found.value:.6g}, stored is {value:.6g}")
    return found


class Items:
    """Tables of one metric of one finished cell.

    Args:
        files: of the cell's result.
        metric: its name.
        facts: version and parameters, from the cell's specification.
    """

    def __init__(self, files: ResultFiles, metric: str, facts: Mapping[str, Any]) -> None:
        self._files, self._metric, self._facts = files, metric, facts
        self._tables: dict[str, dict[str, Any]] = {}
        # A method is compared with several others: each time with the same units.
        self._samples: dict[tuple[float, str], Sample] = {}

    def aggregate(self, number: str = "") -> Aggregate:
        """Return the metric's declaration of its value, or of a further number.

        Raises:
            NoInterval: if it declares nothing, or that the tables do not contain it.
        """
        try:
            found = declaration(self._metric, self._facts["parameters"], number)
        except registry.UnknownName as error:
            raise NoInterval("the metric is not known here: name its file with --plugin") from error
        except ValueError as error:
            raise NoInterval("the metric no longer has the parameters that it was measured with") from error
        if found is None:
            raise NoInterval("the metric does not say how it follows from its tables")
        if isinstance(found, str):
            raise NoInterval(found)
        return found

    def sample(self, value: float, number: str = "") -> Sample:
        """Return the units of a stored number.

        Args:
            value: the stored number.
            number: empty for the metric's value, or the name of a further number.

        Raises:
            NoInterval: if it does not follow from the tables.
        """
        if (value, number) not in self._samples:
            declared = self.aggregate(number)
            self._samples[value, number] = sample_of(declared, self._table(declared.table), value)
        return self._samples[value, number]

    def _table(self, name: str) -> dict[str, Any]:
        if name not in self._tables:
            file = f"{self._metric}.{name}.csv"
            try:
                self._tables[name] = self._files.table(f"items/{file}")
            except FileNotFoundError as error:
                raise NoInterval(f"its table {file} is not on disk") from error
            except Changed as error:
                raise NoInterval(f"{error}; {self._files.remedy}") from error
            except NotNumbers as error:
                raise NoInterval(f"its table {file} holds something else than numbers") from error
            except (OSError, ValueError) as error:
                raise NoInterval(f"its table {file} cannot be read: {str(error).splitlines()[0]}") from error
        return self._tables[name]
