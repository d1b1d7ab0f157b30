"""Panels of one picture with its prototypes: tints, peaks, regions, key-points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.contract import RequestError
from bench.report.plots import style
from bench.report.plots.overlay import heat, present, rgb, tinted
from bench.visualization.viewer import Look, Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = ("region", "keypoints")


def check_shown(shown: Sequence[str], look: Look) -> None:
    """Refuse to draw unknown marks.

    Raises:
        RequestError: for an unknown name, or if the data or the cell do not have it.
    """
    unknown = [one for one in shown if one not in SHOWN]
    if unknown:
        raise RequestError(f"--show {unknown[0]}: write {', '.join(SHOWN)}")
    if "keypoints" in shown and not look.keypoints.shape[1]:
        raise RequestError("--show keypoints: this data set has no part key-points")
    if shown and look.regions is None:
        raise RequestError(f"--show {shown[0]}: no part metric was measured in this cell; run it with consistency")


def tints_together(look: Look, images: Tensor) -> Tensor:
    """Return those ``(n,)`` images with all prototypes of the class, each in its colour: ``(n, size, size, 3)``."""
    return tinted(look.pictures[images], heat(look.maps[images], look.size), _colours(look))


def tints_apart(look: Look, images: Tensor) -> Tensor:
    """Return for each prototype its own ``(K, n)`` images with it alone: ``(K, n, size, size, 3)``."""
    slots, count = images.shape
    each = torch.arange(slots).repeat_interleave(count)
    warmth = heat(look.maps[images.flatten(), each][:, None], look.size)
    return tinted(look.pictures[images.flatten()], warmth, _colours(look)[each][:, None]).unflatten(0, (slots, count))


def all_prototypes(axes: Axes, tint: Tensor, look: Look, image: int, shown: Sequence[str] = ()) -> None:
    """Draw a picture from :func:`tints_together`, the number of each prototype that is present on its peak."""
    picture(axes, tint)
    for slot in range(len(look.prototypes)):
        if "region" in shown:
            _region(axes, look, image, slot)
    if "keypoints" in shown:
        _keypoints(axes, look, image, None)
    there = look.present[image].nonzero()[:, 0].tolist()
    for slot, (x, y) in zip(there, _apart(look.peaks[image][there], look.size), strict=True):
        style.numbered(axes, x, y, slot, 5.5)
    gone = [str(slot + 1) for slot in range(len(look.prototypes)) if slot not in there]
    if gone:
        absent(axes, f"absent: {', '.join(gone)}")


def one_prototype(axes: Axes, tint: Tensor, look: Look, image: int, slot: int, shown: Sequence[str] = ()) -> None:
    """Draw a picture from :func:`tints_apart`, a cross on the prototype's peak if it is present."""
    picture(axes, tint)
    if "region" in shown:
        _region(axes, look, image, slot)
    if "keypoints" in shown:
        _keypoints(axes, look, image, slot)
    if not look.present[image, slot]:
        absent(axes, "absent")
        return
    row, column = look.peaks[image, slot].tolist()
    axes.plot(column, row, "+", color="white", markersize=6, markeredgewidth=2.2)
    axes.plot(column, row, "+", color="black", markersize=5, markeredgewidth=0.9)


def training_patch(axes: Axes, source: Source, slot: int) -> None:
    """Draw the training image that a prototype comes from, its patch framed."""
    from matplotlib.patches import Rectangle

    size = source.picture.shape[0]
    warmth = heat(source.map[None, None], size)
    picture(axes, tinted(source.picture[None], warmth, rgb([style.colour(slot)]))[0])
    top, left, bottom, right = (edge - 0.5 for edge in source.box)
    for colour, width in (("white", 2.6), (style.colour(slot), 1.5)):
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, lw=width))
    if not present(source.map):
        absent(axes, "absent")


def picture(axes: Axes, pixels: Tensor) -> None:
    """Draw pixels ``(H, W, 3)`` from 0 to 1 and nothing around them; whole numbers are centres of pixels."""
    axes.imshow(pixels.numpy(), interpolation="nearest")
    axes.set_xlim(-0.5, pixels.shape[1] - 0.5)
    axes.set_ylim(pixels.shape[0] - 0.5, -0.5)
    style.picture_only(axes)


def absent(axes: Axes, text: str) -> None:
    """Write at the lower edge of a picture which prototypes are not in it."""
    axes.text(
        0.5, 0.03, text, fontsize=5.5, color=style.TEXT, ha="center", va="bottom", transform=axes.transAxes,
        gid="absent", bbox={"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )  # fmt: skip


def _colours(look: Look) -> Tensor:
    return rgb([style.colour(slot) for slot in range(len(look.prototypes))])


def _region(axes: Axes, look: Look, image: int, slot: int) -> None:
    from matplotlib.patches import Rectangle

    top, left, bottom, right = look.box(image, slot)
    for colour, width in (("white", 2.0), (style.colour(slot), 1.1)):
        axes.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, lw=width, gid="region")
        )


def _keypoints(axes: Axes, look: Look, image: int, slot: int | None) -> None:
    """Draw visible key-points as rings, as discs if they are in the prototype's region."""
    visible = look.visible[image]
    inside = look.inside(image, slot) if slot is not None else visible & False
    for chosen, face, gid in ((visible & ~inside, "none", "outside"), (inside, "white", "inside")):
        rows, columns = look.keypoints[image][chosen].unbind(1)
        axes.scatter(columns, rows, s=9, facecolors=face, edgecolors="black", linewidths=1.6, gid="halo")
        axes.scatter(columns, rows, s=9, facecolors=face, edgecolors="white", linewidths=0.8, gid=gid)


def _apart(peaks: Tensor, size: int) -> list[tuple[float, float]]:
    """Return x and y of the peaks' numbers: on the peak, or beside it if another number is there already."""
    least = 0.13 * size
    placed: list[tuple[float, float]] = []
    for row, column in peaks.tolist():
        steps = ((0.0, 0.0), *((least * dx * ring, least * dy * ring) for ring in (1, 2, 3) for dx, dy in _AROUND))
        margin = least / 2
        spots = [
            (min(max(column + dx, margin), size - margin), min(max(row + dy, margin), size - margin))
            for dx, dy in steps
        ]
        free = [s for s in spots if all((s[0] - x) ** 2 + (s[1] - y) ** 2 >= 0.8 * least**2 for x, y in placed)]
        placed.append((free or spots)[0])
    return placed


_AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7))
