"""Table of the cells behind a row: their values, seeds, code versions, and how each is shown and repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.core import registry
from bench.core.errors import RequestError
from bench.report.table import Column, Row, Table, Word
from bench.results.aggregate import Entry
from bench.results.cell_record import CellRecord, in_words
from bench.results.labels import FIRST_METRICS
from bench.results.result_set import ResultSet
from bench.results.store import Store

_WORDS = ("data set", "backbone", "seed", "code", "newest run")


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
    wanted = registry.chosen_metrics(metrics, shared=True) if metrics else FIRST_METRICS
    facts = {name: about for cell in own for name, about in cell.spec["metrics"].items() if name in wanted}
    columns = [Column(name, words=True) for name in _WORDS]
    columns += [Column.of(name, facts[name], "") for name in wanted if name in facts]
    notes: list[str] = []
    rows = [_row(cell, columns, notes) for cell in sorted(own, key=_order)]
    about = ("one cell: python -m bench show CELL; again from nothing: python -m bench repeat CELL",)
    return Table(f"cells of {label}", tuple(columns), tuple(rows), ("cell",), tuple(notes), facts=about)


def _order(cell: CellRecord) -> tuple[Any, ...]:
    return cell.dataset, cell.backbone, cell.label, cell.seed, cell.name


def _row(cell: CellRecord, columns: Sequence[Column], notes: list[str]) -> Row:
    environment = cell.result["environment"] if cell.result is not None else {}
    code = str(environment.get("git") or environment.get("bench") or in_words(cell.status))
    words = (cell.dataset, cell.backbone or "-", str(cell.seed), code, cell.stamp or "-")
    values: dict[str, Any] = {name: Word(text) for name, text in zip(_WORDS, words, strict=True)}
    for column in columns[len(_WORDS) :]:
        status, value, reason = cell.score(column.name)
        if value is None:
            note = f"{in_words(status)}: {reason}"
            notes += [note] if note not in notes else []
            values[column.key] = Entry(status, notes=(notes.index(note) + 1,))
        else:
            values[column.key] = Entry("ok", value)
    return Row(f"{cell.name} {cell.label}", values)
