"""Figures 4, 6 and 8: rows of images of one class, all prototypes on each, every prototype in its own colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bench.report.plots import style
from bench.report.plots.figure import Drawing
from bench.visualization.panels import all_prototypes, check_shown, tints_together
from bench.visualization.viewer import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Inches of a picture's side and of the names beside it, and prototypes that find room there in one column.
_SIDE = 1.25
_LABEL = 1.75
_PER_COLUMN = 6


@dataclass(frozen=True)
class Row:
    """One row: its model's name, and facts about it in a line or two."""

    title: str
    about: str
    look: Look


def draw_rows(
    name: str,
    title: str,
    rows: Sequence[Row],
    columns: int,
    shown: Sequence[str],
    caption: str,
    cells: Sequence[str],
    missing: Sequence[str] = (),
) -> Drawing:
    """Draw the first images of each row's class, in the order of the test split, with all prototypes.

    Args:
        name: file name.
        title: title above the figure.
        rows: top to bottom.
        columns: images per row; fewer if a class has fewer.
        shown: ``region`` and ``keypoints``, or one of them.
        caption: description of these rows; the way of drawing is added.
        cells: ids of the rows' cells.
        missing: missing parts, with the commands for them.
    """
    for row in rows:
        check_shown(shown, row.look)
    width = min(columns, max(len(row.look.index) for row in rows))
    most = max(len(row.look.prototypes) for row in rows)
    # Ten prototypes need more lines beside the images than three.
    label = _LABEL * (1.5 if most > _PER_COLUMN else 1.0)
    with style.styled():
        figure = style.new_figure(label + _SIDE * width + 0.1, _SIDE * len(rows) + 0.45, title)
        grid = figure.subplots(len(rows), width + 1, squeeze=False, width_ratios=[label / _SIDE] + [1] * width)
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.0, hspace=0.0)
        for axes, row in zip(grid, rows, strict=True):
            _describe(axes[0], row)
            there = min(width, len(row.look.index))
            tints = tints_together(row.look, torch.arange(there))
            for image, own in enumerate(axes[1 : 1 + there]):
                all_prototypes(own, tints[image], row.look, image, shown)
            for own in axes[1 + there :]:
                own.set_axis_off()
    explained = how(rows[0].look, shown, any(absences(row.look, width) for row in rows))
    return Drawing(name, title, f"{caption} {explained}", _alt(rows, width), figure,
                   tuple(cells), tuple(missing))  # fmt: skip


def how(look: Look, shown: Sequence[str], absences: bool = False, rates: bool = True) -> str:
    """Describe the tints and marks of a picture.

    Args:
        look: one of those that are drawn.
        shown: ``region`` and ``keypoints``, or one of them.
        absences: whether a prototype is absent from one of them.
        rates: whether the parts that prototypes hit are written beside them.
    """
    said = [
        "Coloured: where a prototype's map, upsampled bicubically to the metric's canvas, is in the upper half of its "
        "range in that image; the number is on its highest pixel, or beside it where peaks crowd."
    ]
    if absences:
        said.append("Absent: the map is nowhere positive in that image; it has neither colour nor peak there.")
    if rates and look.regions is not None:
        said.append(
            "Percentages: in how many of the test images that show a part it lies within "
            f"±{look.regions.half} px of the peak ({look.regions.metric}: "
            f"{100 * look.regions.threshold:g} % or more make a prototype consistent, marked with a tick)."
        )
    if "region" in shown:
        region = "that region" if rates or look.regions is None else f"within ±{look.regions.half} px of the peak"
        said.append(f"Squares: {region}." + " The metric takes it around the highest pixel, absent or not." * absences)
    if "keypoints" in shown:
        said.append("Rings: visible key-points; white discs: those in the region of the one prototype that is shown.")
    return " ".join(said)


def absences(look: Look, count: int) -> str:
    """Return which prototypes are absent from which of the first ``count`` images, from 1; empty if none is."""
    gone = ~look.present[:count]
    return "; ".join(
        f"prototype {slot + 1} is absent from image {', '.join(str(i + 1) for i in images)}"
        for slot in range(gone.shape[1])
        if (images := gone[:, slot].nonzero()[:, 0].tolist())
    )


def rates_text(look: Look, slot: int, count: int = 1) -> str:
    """Return the parts that a prototype hits most, for the text beside its number."""
    if look.regions is None:
        return f"prototype {slot + 1}"
    best = look.regions.best(slot, count)
    if not best:
        return "no part"
    tick = " ✓" if bool(look.regions.consistent[slot]) else ""
    return ", ".join(f"{part} {100 * rate:.0f} %" for part, rate in best) + tick


def _describe(axes: Axes, row: Row) -> None:
    """Write title, facts, and one line per prototype: its number, and the part that it hits most."""
    style.blank(axes)
    slots = len(row.look.prototypes)
    lines = -(-slots // (2 if slots > _PER_COLUMN else 1))
    axes.text(0, 0.97, row.title, fontsize=8.5, fontweight="bold", va="top", ha="left", linespacing=1.1)
    if row.about:
        axes.text(0, 0.82, row.about, fontsize=6.5, color=style.MUTED, va="top", ha="left", linespacing=1.25)
    first, step = (0.58 if row.about else 0.74), 0.58 / max(lines, 4)
    for slot in range(slots):
        x, y = (0.5 if slot >= lines else 0.0), first - step * (slot % lines)
        style.numbered(axes, x + 0.03, y, slot, 5.0, inside=False)
        axes.text(x + 0.085, y, rates_text(row.look, slot), fontsize=6.5, va="center", ha="left")


def _alt(rows: Sequence[Row], width: int) -> str:
    told = [
        f"{row.title}: {min(width, len(row.look.index))} images of {row.look.class_name} with "
        f"{len(row.look.prototypes)} prototype{'s' * (len(row.look.prototypes) > 1)}"
        + (
            " ("
            + "; ".join(f"{slot + 1}: {rates_text(row.look, slot)}" for slot in range(len(row.look.prototypes)))
            + ")"
            if row.look.regions
            else ""
        )
        + (f"; {gone}" if (gone := absences(row.look, width)) else "")
        for row in rows
    ]
    return "Rows of images in which coloured areas show where each prototype is present. " + ". ".join(told) + "."
