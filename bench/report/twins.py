"""Rows that a table would print twice: methods that are, on these black boxes, a reference under another name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bench.core import registry
from bench.report.table import Column, Row
from bench.results.aggregate import SeedGroup


def without_twins(
    rows: Sequence[Row], members: Sequence[SeedGroup], columns: Sequence[Column]
) -> tuple[list[Row], list[SeedGroup], list[str]]:
    """Leave out the row of a method whose numbers, as printed, are all those of the reference that it is a twin of.

    With average pooling and a linear layer HiResCAM's map is that of the black box, for example; with other heads, or
    in columns that tell them apart, both are printed.

    Args:
        rows: rows of measured numbers.
        members: the cells of each row, which differ in the seed alone.
        columns: columns of the table.

    Returns:
        The rows that are left, their cells, and a line for each reference about those that are not.
    """
    known = registry.names("methods")
    numbers = [[_printed(row, column) for column in columns] for row in rows]
    seeds = [[cell.seed for cell in group.cells] for group in members]
    references = {
        (group.spec["method"], row.backbone): place
        for place, (row, group) in enumerate(zip(rows, members, strict=True))
        if row.role == "reference"
    }
    kept, twins = [], defaultdict(list)
    for place, (row, group) in enumerate(zip(rows, members, strict=True)):
        entry = known.get(group.spec["method"])
        other = references.get((entry.twin if entry else "", row.backbone))
        # The seeds too: a mean over others may be equal by chance.
        same = other is not None and (numbers[place], seeds[place]) == (numbers[other], seeds[other])
        if same and any(number is not None for number in numbers[place]):
            twins[other].append(row.label)
        else:
            kept.append(place)
    lines = [
        f"no row of its own, since all its numbers are those of {rows[other].label} ({rows[other].backbone}): "
        + ", ".join(labels)
        for other, labels in twins.items()
    ]
    return [rows[place] for place in kept], [members[place] for place in kept], lines


def _printed(row: Row, column: Column) -> float | None:
    value = row.number(column)
    return None if value is None else column.printed(value)
