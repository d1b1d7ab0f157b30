"""Dot plot: a line for each method in the order of publication, a panel for each metric, the controls across."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.core.errors import RequestError
from bench.report.plots import style
from bench.report.plots.axes import about_controls, control_lines, file_part
from bench.report.plots.figure import Drawing
from bench.report.plots.plot import colours
from bench.report.plots.points import Group, Point, groups
from bench.report.references import year_of
from bench.results.labels import FIRST_METRICS
from bench.results.result_set import ResultSet
from bench.results.store import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches: a line, a panel, the names at the left, title and axis and legend.
_LINE, _PANEL, _NAMES, _REST = 0.2, 2.6, 1.7, 1.15
_ROUNDING = 1e-12
DEFAULT = ("consistency",)


def dots(
    store: Store, suites: Sequence[str] = (), metrics: Sequence[str] = (), only: Sequence[str] = ()
) -> list[Drawing]:
    """Draw every method's values of some metrics, a figure for each data set; controls are dashed lines.

    Args:
        store: results.
        suites: whose cells count; by default all.
        metrics: names; by default consistency.
        only: labels of rows; by default all methods in the settings of their recipes, and the black box.

    Raises:
        RequestError: if no two rows have a value of one of the metrics.
    """
    metrics = tuple(metrics) or DEFAULT
    cells = ResultSet.of(store).required().of_suites(suites)
    drawings = []
    for group in groups(cells, metrics):
        points = [point for point in group.points if point.role != "control" and _wanted(point, only)]
        panels = [metric for metric in metrics if any(metric in point.values for point in points)]
        labels = _ordered(points)
        if panels and len(labels) > 1:
            drawings.append(_draw(group, points, labels, panels))
    if not drawings:
        raise RequestError(
            f"no two methods have {' or '.join(metrics)} on the same data: `python -m bench report` shows what was "
            f"measured; the usual metrics are {', '.join(FIRST_METRICS)}"
        )
    return drawings


def _wanted(point: Point, only: Sequence[str]) -> bool:
    return point.label in only or point.method in only if only else not point.varied


def _ordered(points: Sequence[Point]) -> list[str]:
    """Return the labels in the order of publication, the newest last; then this project's own; then the black box."""
    found = {point.label: (point.role != "method", year_of(point.method) or 9999, point.label) for point in points}
    return sorted(found, key=lambda label: found[label])


def _draw(group: Group, points: Sequence[Point], labels: Sequence[str], panels: Sequence[str]) -> Drawing:
    from matplotlib.lines import Line2D

    backbones = sorted({point.backbone for point in points})
    columns, side = style.panels_across(len(panels), _PANEL, _NAMES)
    rows = -(-len(panels) // columns)
    names = " and ".join(metric.replace("_", " ") for metric in panels)
    title = f"{names[:1].upper()}{names[1:]} by year of publication: {group.title}"
    with style.styled():
        figure = style.new_figure(_NAMES + columns * side, rows * (_LINE * len(labels) + _REST), title)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, metric in zip(grid.flat, panels, strict=False):
            _panel(axes, group, points, labels, backbones, metric)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        if len(backbones) > 1:
            handles = [
                Line2D([], [], linestyle="none", marker=style.MARKERS[place % len(style.MARKERS)], color=style.MUTED,
                       markerfacecolor="white", label=name or "none")
                for place, name in enumerate(backbones)
            ]  # fmt: skip
            figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
    several = any(value.seeds > 1 for point in points for value in point.values.values())
    said = [
        "Methods in the order of publication, then those of this project, then the black box (a ring).",
        f"Marks: {', '.join(backbones)}." if len(backbones) > 1 else "",
        about_controls(group.points, panels),
        "Bars: standard deviation over seeds." if several else "One seed: no spread is known.",
    ]
    used = tuple(cell for point in points for cell in point.cells)
    file = f"dots-{'-'.join(map(file_part, panels))}-{file_part(group.dataset)}"
    return Drawing(file, title, " ".join(filter(None, said)), _alt(group, points, labels, panels), figure, used)


def _panel(
    axes: Axes, group: Group, points: Sequence[Point], labels: Sequence[str], backbones: Sequence[str], metric: str
) -> None:
    apart = 0.5 / max(1, len(backbones))
    for point in points:
        value = point.values.get(metric)
        if value is None:
            continue
        colour, face, edge = colours(point)
        place = backbones.index(point.backbone)
        axes.errorbar(
            value.mean, labels.index(point.label) + apart * (place - (len(backbones) - 1) / 2),
            xerr=value.spread or None, color=colour, marker=style.MARKERS[place % len(style.MARKERS)], linestyle="none",
            markersize=5.5, markerfacecolor=face, markeredgecolor=edge, elinewidth=1, clip_on=False,
            gid=f"{point.label} {point.backbone} {metric}",
        )  # fmt: skip
    axes.set_yticks(range(len(labels)), [_name(label, points) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    unit = group.units.get(metric, "")
    axes.set_xlabel(f"{metric.replace('_', ' ')} ({unit})" if unit else metric.replace("_", " "))
    if unit == "%":
        axes.set_xlim(-3, 104)
    elif not unit and any(metric in point.values and point.values[metric].mean < _ROUNDING for point in points):
        # Residuals: some are nothing but rounding, others of the size of the numbers themselves.
        axes.set_xscale("symlog", linthresh=_ROUNDING)
        axes.set_xticks([0, 1e-8, 1e-4, 1, 100], ["< 1e-12", "1e-8", "1e-4", "1", "100"])
        axes.set_xlim(-_ROUNDING / 2, 1000)
    else:
        axes.set_xlim(left=0)
        axes.margins(x=0.08)
    axes.grid(axis="y", color=style.RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    control_lines(axes, group.points, metric, upright=True)


def _name(label: str, points: Sequence[Point]) -> str:
    year = next(year_of(point.method) for point in points if point.label == label)
    return f"{label}, {year}" if year else label


def _alt(group: Group, points: Sequence[Point], labels: Sequence[str], panels: Sequence[str]) -> str:
    def numbers(those: Sequence[Point]) -> str:
        return "; ".join(
            f"{point.label}{f' on {point.backbone}' if point.backbone else ''}: "
            + ", ".join(f"{metric} {point.values[metric].mean:.1f}" for metric in panels if metric in point.values)
            for point in those
        )

    shown = sorted(points, key=lambda point: (labels.index(point.label), point.backbone))
    controls = [point for point in group.points if point.role == "control" and point.values.keys() & set(panels)]
    return f"Dot plot of {', '.join(panels)}. {numbers(shown)}." + (
        f" Content-free controls: {numbers(controls)}." if controls else ""
    )
