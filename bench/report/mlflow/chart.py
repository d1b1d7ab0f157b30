"""Figures of a comparison: the scores of all methods side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.core.plain_text import one_line
from bench.report.plots.style import tame
from bench.report.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"method": "#2b6cb0", "reference": "#4a5568", "control": "#c0c7d1"}


def chart(tables: Sequence[Table]) -> Iterator[tuple[str, Figure]]:
    """Draw for each table a figure with a panel per metric: mean over the seeds, standard deviation as a whisker.

    Args:
        tables: one panel per metric each.

    Yields:
        Name and figure; none for a table without any value.
    """
    from matplotlib.figure import Figure

    for number, table in enumerate(tables, 1):
        columns = [column for column in table.columns if any(row.number(column) is not None for row in table.rows)]
        if not columns:
            continue
        figure = Figure(figsize=(1.5 + 2.3 * len(columns), 1.2 + 0.32 * len(table.rows)), layout="constrained")
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        # Here, since labels of ticks are made again whenever they are drawn.
        names = [one_line(f"{row.name}, {row.backbone}" if row.backbone else row.name) for row in table.rows]
        for panel, column in zip(panels, columns, strict=True):
            entries = [row.values[column.key] for row in table.rows]
            panel.barh(
                range(len(names)),
                [entry.value if _finite(entry.value) else math.nan for entry in entries],
                xerr=[entry.spread if _finite(entry.spread) else 0.0 for entry in entries],
                color=[_COLOURS.get(row.role, "#2b6cb0") for row in table.rows],
                error_kw={"elinewidth": 1},
            )
            panel.set_yticks(range(len(names)), names)
            panel.set_xlabel(column.unit or "value")
            panel.set_title(f"{column.name} {'↑' if column.higher_is_better else '↓'}", fontsize="small")
            if column.unit == "%":
                panel.set_xlim(0, 100)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].invert_yaxis()
        figure.suptitle(table.title)
        tame(figure)
        yield (f"scores-{number}" if len(tables) > 1 else "scores"), figure


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
