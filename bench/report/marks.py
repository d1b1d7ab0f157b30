"""Marks that several plots share: lines of the content-free controls, labels that stay apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench import style
from bench.report.points import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GAP = 0.055


def control_lines(axes: Axes, points: Sequence[Point], metric: str) -> None:
    """A grey line for each control at its score, named at the right; call it when the axis limits are set."""
    found = {p.label: p.values[metric].mean for p in points if p.role == "control" and metric in p.values}
    ordered = sorted(found.items(), key=lambda item: (item[1], item[0]))
    low, high = axes.get_ylim()
    places = spread_out([(value - low) / (high - low) for _, value in ordered], _GAP)
    for (label, value), place in zip(ordered, places, strict=True):
        axes.axhline(value, color=style.MUTED, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1, gid=f"control {label}")
        axes.annotate(
            label, xy=(1.0, value), xycoords=("axes fraction", "data"), xytext=(1.06, place),
            textcoords="axes fraction", fontsize=7, color=style.MUTED, va="center", ha="left", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": style.MUTED, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def about_controls(points: Sequence[Point], metrics: Sequence[str]) -> str:
    """What a caption says of those lines; nothing where accuracy is all that is shown, which no control has."""
    if set(metrics) <= {"accuracy"}:
        return ""
    if not any(point.role == "control" and point.values.keys() & set(metrics) for point in points):
        return "No content-free control was measured here, so the chance level is not known."
    return (
        "Grey lines: content-free controls, which look at no image content and predict no class; a method on or below "
        "such a line shows nothing beyond chance there."
    )


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places, moved so that neighbours are ``gap`` apart and the last is no higher than 1.

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
    """A text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("_") or "none"
