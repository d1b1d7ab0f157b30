"""Marks that several plots share: lines of the content-free controls, labels that stay apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from bench.report.plots import style
from bench.report.plots.points import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Least distance of the names of two controls, as a share of the axis.
_GAP = 0.055
# In shares of an axis: distance of marks whose numbers share a column, distances of the column, size of a number.
_NEAR, _AWAY, _WIDE, _HIGH = 0.07, (0.07, 0.1, 0.14, 0.18), 0.045, 0.045


class Mark(NamedTuple):
    """Point of a plot; ``number`` is written beside it, with a line of the colour."""

    x: float
    y: float
    number: int | None
    colour: str


def control_lines(axes: Axes, points: Sequence[Point], metric: str, upright: bool = False) -> None:
    """Draw a grey line for each control at its score, named at its end; call it when the axis limits are set.

    Args:
        axes: of the plot.
        points: all, of which the controls are taken.
        metric: on the axis.
        upright: whether the metric is on the horizontal axis: the names are above then, one over the other.
    """
    found = {p.label: p.values[metric].mean for p in points if p.role == "control" and metric in p.values}
    ordered = sorted(found.items(), key=lambda item: (item[1], item[0]))
    low, high = axes.get_xlim() if upright else axes.get_ylim()
    places = spread_out([(value - low) / (high - low) for _, value in ordered], _GAP)
    dashed = {"color": style.MUTED, "linewidth": 0.9, "linestyle": (0, (4, 2)), "zorder": 1}
    for number, ((label, value), place) in enumerate(zip(ordered, places, strict=True)):
        if upright:
            axes.axvline(value, **dashed, gid=f"control {label}")
            axes.annotate(
                label, xy=(value, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3 + 8 * (number % 4)),
                textcoords="offset points", fontsize=7, color=style.MUTED, va="bottom", ha="center",
                annotation_clip=False,
            )  # fmt: skip
            continue
        axes.axhline(value, **dashed, gid=f"control {label}")
        axes.annotate(
            label, xy=(1.0, value), xycoords=("axes fraction", "data"), xytext=(1.06, place),
            textcoords="axes fraction", fontsize=7, color=style.MUTED, va="center", ha="left", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": style.MUTED, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def number_marks(axes: Axes, marks: Sequence[Mark]) -> None:
    """Write the numbers of marks beside them, in free space; call it when the axis limits are set."""
    from matplotlib.patheffects import withStroke

    axes.autoscale_view()
    to_axes = axes.transScale + axes.transLimits
    placed = [(*to_axes.transform((mark.x, mark.y)), mark) for mark in marks]
    taken = [(across, up) for across, up, _ in placed]
    for cluster in _clusters([one for one in placed if one[2].number is not None]):
        heights = _centred([up for _, up, _ in cluster], _HIGH)
        ends = min(across for across, _, _ in cluster), max(across for across, _, _ in cluster)
        columns = [place for away in _AWAY for place in (ends[1] + away, ends[0] - away)]

        others = [place for place in taken if place not in {(across, up) for across, up, _ in cluster}]
        column = min(columns, key=lambda column: _crowd(column, ends, heights, others))
        for (across, _, mark), height in zip(cluster, heights, strict=True):
            axes.annotate(
                str(mark.number), xy=(mark.x, mark.y), xytext=(column, height), textcoords="axes fraction", fontsize=6,
                color=style.TEXT, va="center", ha="center", annotation_clip=False, gid=f"number {mark.number}",
                path_effects=[withStroke(linewidth=1.5, foreground="white")],
                arrowprops={"arrowstyle": "-", "color": mark.colour, "linewidth": 0.5, "shrinkA": 0.5, "shrinkB": 1.5,
                            "relpos": (float(column < across), 0.5)},
            )  # fmt: skip
            taken.append((column, height))


def _crowd(
    column: float, ends: tuple[float, float], heights: Sequence[float], others: Sequence[tuple[float, float]]
) -> int:
    """Count the marks that a column of numbers would cover or its lines would cross, plus 9 if it leaves the axes."""
    outside = not _WIDE / 2 <= column <= 1 - _WIDE / 2
    low, high = (ends[1] + _WIDE / 2, column) if column > ends[1] else (column, ends[0] - _WIDE / 2)
    covered = (abs(x - column) < _WIDE and any(abs(y - height) < _HIGH for height in heights) for x, y in others)
    crossed = (low < x < high and heights[0] < y < heights[-1] for x, y in others)
    return 9 * outside + sum(covered) + sum(crossed)


def _clusters(placed: Sequence[tuple[float, float, Mark]]) -> list[list[tuple[float, float, Mark]]]:
    """Return marks that are close together, from the lowest to the highest; the most crowded ones first."""
    left = sorted(placed, key=lambda one: (one[1], one[0]))
    found = []
    while left:
        cluster = [left.pop(0)]
        for one in list(left):
            if abs(one[0] - cluster[0][0]) < _NEAR and one[1] - cluster[-1][1] < 1.2 * _HIGH:
                cluster.append(one)
                left.remove(one)
        found.append(cluster)
    return sorted(found, key=len, reverse=True)


def _centred(places: Sequence[float], gap: float) -> list[float]:
    """Return ascending places, moved so that neighbours are ``gap`` apart, about their middle and between 0 and 1."""
    moved = spread_out(places, gap)
    shift = (sum(places) - sum(moved)) / len(moved)
    shift = max(min(shift, 1 - gap / 2 - moved[-1]), gap / 2 - moved[0])
    return [place + shift for place in moved]


def about_controls(points: Sequence[Point], metrics: Sequence[str]) -> str:
    """Return the caption's text on those lines; nothing if accuracy is all that is shown, which no control has."""
    if set(metrics) <= {"accuracy"}:
        return ""
    if not any(point.role == "control" and point.values.keys() & set(metrics) for point in points):
        return "No content-free control was measured here, so the chance level is not known."
    return (
        "Grey lines: content-free controls, which look at no image content and predict no class; a method on or below "
        "such a line shows nothing beyond chance there."
    )


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Return ascending places, moved so that neighbours are ``gap`` apart and the last is no higher than 1.

    >>> [round(place, 2) for place in spread_out([0.5, 0.51, 1.0], 0.1)]
    [0.5, 0.6, 1.0]
    """
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    limit = 1.0
    for i in range(len(moved) - 1, -1, -1):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - gap
    return moved


def file_part(text: str) -> str:
    """Return a text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_") or "none"
