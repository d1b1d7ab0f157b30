"""Picture of a comparison: the scores of all methods side by side, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.core.plain_text import one_line
from bench.report.plots.style import tame
from bench.report.table import Table
from bench.results.aggregate import Entry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of the panels, for the width of MLflow's page.
_ACROSS = 4
_COLOURS = {"method": "#2b6cb0", "reference": "#4a5568", "control": "#c0c7d1"}


def chart(tables: Sequence[Table]) -> Iterator[tuple[str, Figure]]:
    """Draw for each table a figure with a panel per metric: mean over the seeds, 95 % interval as a whisker.

    Yields:
        Name and figure; none for a table without any value.
    """
    from matplotlib.figure import Figure

    for number, table in enumerate(tables, 1):
        columns = [column for column in table.columns if any(row.number(column) is not None for row in table.rows)]
        if not columns:
            continue
        across = min(_ACROSS, len(columns))
        down = math.ceil(len(columns) / across)
        size = (1.5 + 2.3 * across, 0.4 + (0.8 + 0.32 * len(table.rows)) * down)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        # Here, since labels of ticks are made again whenever they are drawn.
        names = [one_line(f"{row.name}, {row.backbone}" if row.backbone else row.name) for row in table.rows]
        for panel, column in zip(panels, columns, strict=False):
            entries = [row.entry(column) or Entry("missing") for row in table.rows]
            panel.barh(
                range(len(names)),
                [math.nan if entry.value is None else entry.value for entry in entries],
                xerr=[*zip(*map(_whisker, entries), strict=True)],
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
        for panel in panels[len(columns) :]:
            panel.set_visible(False)
        figure.suptitle(f"{table.title}\nmeans over the seeds; whiskers: 95 % intervals", fontsize="medium")
        tame(figure)
        yield (f"scores-{number}" if len(tables) > 1 else "scores"), figure


def _whisker(entry: Entry) -> tuple[float, float]:
    """Return how far the interval reaches below and above the value; 0 if it has none."""
    if entry.value is None or entry.low is None or entry.high is None:
        return 0.0, 0.0
    # A percentile interval of few units need not contain the value itself.
    return max(0.0, entry.value - entry.low), max(0.0, entry.high - entry.value)
