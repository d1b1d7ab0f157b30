"""Page of a class: its prototypes one by one, the images in which they are strongest, and their origin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.report.plots import style
from bench.report.plots.figure import Drawing
from bench.visualization.panels import (
    all_prototypes,
    check_shown,
    one_prototype,
    tints_apart,
    tints_together,
    training_patch,
)
from bench.visualization.rows import absences, how, rates_text
from bench.visualization.viewer import Look, Source, Viewer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIDE = 1.2
_LABEL = 1.45


def draw_class(viewer: Viewer, label: int, columns: int = 6, shown: Sequence[str] = (), name: str = "") -> Drawing:
    """Draw a page: a row with all prototypes, then one row for each with the test images in which it is strongest.

    Args:
        viewer: opened cell.
        label: number of the class, whose test images are shown.
        columns: images per row.
        shown: ``region`` and ``keypoints``, or one of them.
        name: file name.

    Raises:
        RequestError: if the class has no test image or no prototype, or a name in ``shown`` is not known.
    """
    look = viewer.look(label)
    check_shown(shown, look)
    rows = look.prototypes.tolist()
    sources = [viewer.source(row, label, look.size) for row in rows]
    patch = int(any(sources))
    width = min(columns, len(look.index))
    title = f"{look.class_name}: prototypes of {viewer.title}"
    with style.styled():
        figure = style.new_figure(_LABEL + _SIDE * (width + patch) + 0.1, (_SIDE + 0.16) * (len(rows) + 1) + 0.5)
        grid = figure.subplots(
            len(rows) + 1, width + 1 + patch, squeeze=False, width_ratios=[_LABEL / _SIDE] + [1] * (width + patch)
        )
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
        style.heading(figure, title)
        _label(grid[0, 0], "all prototypes", f"first {width} of {len(look.index)}\ntest images")
        for axes in grid[0, 1 : 1 + patch]:
            axes.set_axis_off()
        together = tints_together(look, torch.arange(width))
        for image, axes in enumerate(grid[0, 1 + patch :]):
            all_prototypes(axes, together[image], look, image, shown)
            _verdict(axes, look, image, viewer)
        top = look.top(width)
        apart = tints_apart(look, top)
        for slot, axes in enumerate(grid[1:]):
            _prototype_label(axes[0], look, slot)
            if patch:
                _patch(axes[1], sources[slot], slot)
            for own, tint, image in zip(axes[1 + patch :], apart[slot], top[slot].tolist(), strict=True):
                one_prototype(own, tint, look, image, slot, shown)
                own.set_title(f"{float(look.strengths[image, slot]):.3g}", fontsize=6.5, pad=2, color=style.MUTED)
    guide = (
        "Rows below the first: the test images of the class where one prototype is strongest, the strongest first, "
        f"with the largest value of its map. {_origin(sources)}{how(look, shown, _any_absent(look, width, top))}"
    )
    return Drawing(
        name or f"gallery-{label:03d}",
        title,
        f"{len(look.index)} test images.",
        _alt(look, rows, width, sources, top),
        figure,
        (viewer.name,),
        guide=guide,
    )


def _label(axes: Axes, title: str, about: str) -> None:
    style.picture_only(axes)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.text(0, 0.95, title, fontsize=8, fontweight="bold", va="top", ha="left")
    axes.text(0, 0.76, about, fontsize=6.5, color=style.MUTED, va="top", ha="left", linespacing=1.3)


def _prototype_label(axes: Axes, look: Look, slot: int) -> None:
    """Write the number, the parts that it hits most, and the verdict of the metric."""
    style.picture_only(axes)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    style.numbered(axes, 0.07, 0.88, slot, 8.0, inside=False)
    axes.text(0.17, 0.88, f"prototype {slot + 1}", fontsize=8, fontweight="bold", va="center", ha="left")
    if look.regions is None:
        return
    best = look.regions.best(slot)
    text = "\n".join(f"{part} {100 * rate:.0f} %" for part, rate in best) or "hits no part"
    axes.text(0, 0.72, text, fontsize=7, va="top", ha="left", linespacing=1.35)
    threshold = f"{100 * look.regions.threshold:g} %"
    verdict = "✓ consistent" if bool(look.regions.consistent[slot]) else f"below {threshold}: not consistent"
    axes.text(0, 0.72 - 0.135 * max(1, len(best)) - 0.03, verdict, fontsize=6.5, color=style.MUTED, va="top", ha="left")


def _verdict(axes: Axes, look: Look, image: int, viewer: Viewer) -> None:
    """Write the predicted class above the picture, if predictions mean anything."""
    if not type(viewer.cell.method).predicts:
        return
    predicted = int(look.predictions[image])
    right = predicted == look.label
    text = "correct" if right else f"taken for\n{_short(viewer.class_names[predicted])}"
    axes.set_title(text, fontsize=6.5, pad=2, color=style.MUTED if right else style.VERMILLION)


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _patch(axes: Axes, source: Source | None, slot: int) -> None:
    if source is None:
        axes.set_axis_off()
        return
    training_patch(axes, source, slot)
    axes.set_title("training patch", fontsize=6.5, pad=2, color=style.MUTED)


def _origin(sources: Sequence[Source | None]) -> str:
    there = sum(source is not None for source in sources)
    if not there:
        return "This method's prototypes come from no single training patch. "
    few = "" if there == len(sources) else f" ({there} of {len(sources)} prototypes have one)"
    return f"Framed on the left: the training patch that the method names as the prototype's source{few}. "


def _any_absent(look: Look, width: int, top: Tensor) -> bool:
    """Return whether a prototype is absent from an image of the first row, or of its own ``(K, width)``."""
    return not (look.present[:width].all() and look.present.T.gather(1, top).all())


def _alt(look: Look, rows: Sequence[int], width: int, sources: Sequence[Source | None], top: Tensor) -> str:
    told = "; ".join(f"prototype {slot + 1}: {rates_text(look, slot, 3)}" for slot in range(len(rows)))
    gone = [absences(look, width)] if absences(look, width) else []
    gone += [
        f"prototype {slot + 1} is absent from {int(count)} of its own {width}"
        for slot, count in enumerate((~look.present.T.gather(1, top)).sum(1))
        if count
    ]
    patches = ", with the training patch it comes from" if any(sources) else ""
    return (
        f"{look.class_name}: {width} images with all {len(rows)} prototypes in colours, then for each prototype the "
        f"{width} images where it is strongest{patches}. {told if look.regions else ''}"
    ).strip() + "".join(f" {text[0].upper()}{text[1:]}." for text in gone)
