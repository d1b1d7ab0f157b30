"""Footnotes of a table at numbers that say little: undertrained methods, stability of regions without a part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.report.table import Row
from bench.results.aggregate import Entry, SeedGroup, footnote
from bench.results.cautions import collapsed, empty_regions, undertrained
from bench.results.cell_record import CellRecord

_REFERENCE = "blackbox"


def with_cautions(rows: Sequence[Row], members: Sequence[SeedGroup], notes: list[str]) -> list[Row]:
    """Return the rows of a table with footnotes at numbers that say little about their method, new in ``notes``."""
    # Accuracy depends on the backbone: it is held against the black box on the same one.
    black_boxes: dict[str, float | None] = {}
    for row, group in zip(rows, members, strict=True):
        accuracy = row.values.get("accuracy")
        if group.spec["method"] == _REFERENCE and isinstance(accuracy, Entry):
            black_boxes[row.backbone] = accuracy.value
    return [
        _cautioned(row, group.cells, black_boxes.get(row.backbone), notes)
        for row, group in zip(rows, members, strict=True)
    ]


def _cautioned(row: Row, cells: Sequence[CellRecord], black_box: float | None, notes: list[str]) -> Row:
    if row.role != "method":
        return row
    values = dict(row.values)
    for metric, entry in row.values.items():
        if not isinstance(entry, Entry) or entry.value is None:
            continue
        shares = [share for cell in cells if (share := _empty_share(cell, metric)) is not None]
        marked = _with_note(replace(entry, collapsed=collapsed(shares)), empty_regions(shares), notes)
        if metric == "accuracy" and black_box is not None and not _decomposes(cells[0]):
            marked = _with_note(marked, undertrained(entry.value, black_box), notes)
        values[metric] = marked
    return replace(row, values=values)


def _decomposes(cell: CellRecord) -> bool:
    """Return whether a cell trains nothing beyond its black box: what it lacks in accuracy, no epoch would add."""
    return bool(cell.spec.get("black_box")) and "schedule" not in cell.spec["settings"]


def _empty_share(cell: CellRecord, metric: str) -> float | None:
    """Return the percent of the regions of a cell that contain no part, if the metric counts them."""
    share: float | None = (cell.result or {}).get("scores", {}).get(metric, {}).get("also", {}).get("empty")
    return share


def _with_note(entry: Entry, note: str, notes: list[str]) -> Entry:
    return replace(entry, notes=(*entry.notes, footnote(note, notes))) if note else entry
