"""Footnotes of a table at numbers that say little: undertrained methods, stability of regions without a part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.report.table import Line
from bench.results.aggregate import Entry
from bench.results.cautions import collapsed, empty_regions, undertrained
from bench.results.records import CellRecord

_REFERENCE = "blackbox"


def with_cautions(lines: Sequence[Line], rows: Sequence[Sequence[CellRecord]], notes: list[str]) -> list[Line]:
    """Return the lines of a table with footnotes at numbers that say little about their method.

    Args:
        lines: rows of the table.
        rows: the cells of each, which differ in the seed alone.
        notes: footnotes of the table; new ones are added.
    """
    black_boxes = {
        line.backbone: line.entries["accuracy"].value
        for line, row in zip(lines, rows, strict=True)
        if row[0].spec["method"] == _REFERENCE and "accuracy" in line.entries
    }
    return [_cautioned(line, row, black_boxes.get(line.backbone), notes) for line, row in zip(lines, rows, strict=True)]


def _cautioned(line: Line, row: Sequence[CellRecord], black_box: float | None, notes: list[str]) -> Line:
    if line.role != "method":
        return line
    entries = dict(line.entries)
    for metric, entry in line.entries.items():
        if entry.value is None:
            continue
        shares = [share for cell in row if (share := _empty_share(cell, metric)) is not None]
        entries[metric] = _with_note(replace(entry, collapsed=collapsed(shares)), empty_regions(shares), notes)
        if metric == "accuracy" and black_box is not None:
            entries[metric] = _with_note(entries[metric], undertrained(entry.value, black_box), notes)
    return replace(line, entries=entries)


def _empty_share(cell: CellRecord, metric: str) -> float | None:
    """Return the percent of the regions of a cell that contain no part, if the metric counts them."""
    share: float | None = (cell.result or {}).get("scores", {}).get(metric, {}).get("also", {}).get("empty")
    return share


def _with_note(entry: Entry, note: str, notes: list[str]) -> Entry:
    if not note:
        return entry
    if note not in notes:
        notes.append(note)
    return replace(entry, notes=(*entry.notes, notes.index(note) + 1))
