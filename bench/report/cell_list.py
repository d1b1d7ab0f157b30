"""Tables of cells: all of a report, or those behind a row with their values, seeds and code versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.core import registry
from bench.core.errors import RequestError
from bench.report.table import Column, Place, Row, Table, Word
from bench.results.aggregate import Entry, footnote
from bench.results.cell_record import CellRecord, in_words
from bench.results.result_set import ResultSet, wanted_metrics
from bench.results.store import Store

_FACTS: dict[str, Callable[[CellRecord], str]] = {
    "method": lambda cell: cell.label,
    "data set": lambda cell: cell.dataset,
    "backbone": lambda cell: cell.backbone,
    "seed": lambda cell: str(cell.seed),
    "state": lambda cell: in_words(cell.status),
    "code": lambda cell: _code(cell),
    "newest run": lambda cell: cell.stamp,
}
_OF_ROW = ("data set", "backbone", "seed", "code", "newest run")


def cell_list(cells: Sequence[CellRecord]) -> Table:
    """Return a row for each cell, in words."""
    names = tuple(name for name in _FACTS if name != "code")
    rows = (Row(cell.name, _words(cell, names)) for cell in cells)
    return Table("cells", tuple(Column(name, words=True) for name in names), tuple(rows), ("cell",))


def cells_of_row(store: Store, label: str, metrics: Sequence[str] = (), suites: Sequence[str] = ()) -> Table:
    """Return a row for each cell that has a label or a method's name, with its values.

    Args:
        store: contains the results.
        label: as tables print it, or the name of a method for all of its settings.
        metrics: names or groups; by default the usual ones that were measured.
        suites: whose cells are listed; by default all.

    Raises:
        RequestError: if no cell has it.
    """
    cells = ResultSet.of(store).required().of_suites(suites)
    own = [cell for cell in cells if label in (cell.label, cell.spec["method"])]
    if not own:
        known = {name for cell in cells for name in (cell.label, cell.spec["method"])}
        raise RequestError(
            f"no cell and no method {registry.quoted(label)} in {store.root} (`python -m bench results` lists the "
            f"cells, `report` the methods){registry.nearest(label, known)}"
        )
    wanted = wanted_metrics(own, metrics, f"cells of {label}", usual=True)
    facts = {name: about for cell in own for name, about in cell.spec["metrics"].items() if name in wanted}
    measured = [Column.of(name, facts[name], "") for name in wanted if name in facts]
    notes: list[str] = []
    rows = [_row(cell, measured, notes) for cell in sorted(own, key=_order)]
    columns = [*(Column(name, words=True) for name in _OF_ROW), *measured]
    about = ("one cell: python -m bench show CELL; again from nothing: python -m bench repeat CELL",)
    return Table(f"cells of {label}", tuple(columns), tuple(rows), ("cell",), tuple(notes), facts=about)


def _words(cell: CellRecord, names: Sequence[str], nothing: str = "") -> dict[str, Place]:
    return {name: Word(_FACTS[name](cell) or nothing) for name in names}


def _code(cell: CellRecord) -> str:
    environment = cell.result["environment"] if cell.result is not None else {}
    return str(environment.get("git") or environment.get("bench") or in_words(cell.status))


def _order(cell: CellRecord) -> tuple[Any, ...]:
    return cell.dataset, cell.backbone, cell.label, cell.seed, cell.name


def _row(cell: CellRecord, columns: Sequence[Column], notes: list[str]) -> Row:
    values = _words(cell, _OF_ROW, nothing="-")
    for column in columns:
        status, value, reason = cell.score(column.name)
        notes_here = (footnote(f"{in_words(status)}: {reason}", notes),) if value is None else ()
        values[column.key] = Entry(status, value, notes=notes_here)
    return Row(f"{cell.name} {cell.label}", values)
