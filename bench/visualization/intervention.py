"""Figure 7 of the paper: a wrong prediction that is right once one prototype's contribution is set to zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench.core.plain_text import one_line
from bench.report.plots import style
from bench.report.plots.figure import Drawing
from bench.report.plots.overlay import heat, pictures, present, rgb, tinted
from bench.runner.intervene import Intervention
from bench.visualization.panels import absent, picture
from bench.visualization.viewer import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIDE = 1.75


def clearest(result: Intervention, prototype: int) -> int:
    """Return the image, of those that leaving out the prototype corrects, on which the model was surest and wrong."""
    images = result.cases(prototype)
    return images[int(result.logits[images].softmax(1).amax(1).argmax())]


@torch.no_grad()
def draw_case(result: Intervention, prototype: int, image: int, cell: str = "", name: str = "figure7") -> Drawing:
    """Draw the image, the prototypes of the class that one is left out of, and the logits before and after.

    Args:
        result: result of :func:`bench.runner.intervene.intervene`.
        prototype: the one that is left out, a row of the prototype table.
        image: position in the test split.
        cell: id of the cell, for the caption.
        name: file name.
    """
    model, names = result.model, [readable(one) for one in result.class_names]
    batch = next(iter(result.test.batches(1, model.bias.device, index=torch.tensor([image]))))
    after = model.without([prototype])(batch.images)[0].cpu()
    before, true = result.logits[image], int(result.labels[image])
    owner, slot = divmod(prototype, result.k)
    shown = model.explain(batch.images, torch.tensor([owner], device=batch.images.device))
    maps, scores, size = shown.maps.cpu(), shown.scores[0].cpu(), result.test.size
    plain = pictures(batch.images, size, result.test.mean, result.test.std).cpu()
    colours = rgb([style.colour(one) for one in range(result.k)])
    tints = tinted(plain.expand(result.k, -1, -1, -1), heat(maps.movedim(1, 0), size), colours[:, None])
    gone = (~present(maps[0])).nonzero()[:, 0].tolist()
    first, second = int(before.argmax()), int(after.argmax())
    title = f"Taken for {names[first]}; without prototype {slot + 1}, {names[second]}"
    with style.styled():
        columns = result.k + 1
        figure = style.new_figure(_SIDE * columns + 2.9, _SIDE + 0.75)
        grid = figure.subplots(1, columns + 1, width_ratios=[_SIDE] * columns + [2.5])
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.02)
        style.heading(figure, title)
        picture(grid[0], plain[0])
        grid[0].set_title(f"true class\n{names[true]}", fontsize=7.5)
        for one in range(result.k):
            _prototype(grid[1 + one], tints[one], one, float(scores[one]), one == slot, one in gone)
        _logits(grid[-1], before, after, names, list(dict.fromkeys((first, second, true))))
    told = [
        f"prototype {one + 1} of {names[owner]}{' is absent and' if one in gone else ''} contributes "
        f"{float(scores[one]):+.2f}" + (" and is left out" if one == slot else "")
        for one in range(result.k)
    ]
    change = int(result.effects.corrected[prototype]), int(result.effects.broken[prototype])
    caption = (
        f"Test image {result.image_ids[image]}: its class is {names[true]}, the model says {names[first]}. Setting the "
        f"contribution of prototype {slot + 1} of {names[owner]} to zero makes it {names[second]}. Over the whole test "
        f"split that corrects {change[0]} images and breaks {change[1]} (accuracy {result.accuracy:.2f} % before, "
        f"{result.without(prototype):.2f} % after). Coloured: the upper half of each prototype's map."
    )
    if gone:
        numbers = ", ".join(str(one + 1) for one in gone)
        caption += f" Absent, because its map is nowhere positive in this image: prototype {numbers}."
    alt = (
        f"A test image of {names[true]}, then the same with the prototypes of {names[owner]} in colour: "
        f"{', '.join(told)}."
    )
    alt += " Bars: " + "; ".join(
        f"logit of {names[c]} {float(before[c]):.2f} before, {float(after[c]):.2f} after"
        for c in dict.fromkeys((first, second))
    )
    return Drawing(name, title, caption, f"{alt}.", figure, (cell,) if cell else ())


def _prototype(axes: Axes, tint: Tensor, slot: int, score: float, out: bool, gone: bool) -> None:
    faint = tint if not out else (2 * tint + 1) / 3
    picture(axes, faint)
    style.numbered(axes, 0.08 * tint.shape[0], 0.08 * tint.shape[0], slot, 7.0)
    if gone:
        absent(axes, "absent")
    words = f"contribution {score:+.2f}\n{'LEFT OUT' if out else 'kept'}"
    axes.set_title(words, fontsize=7.5, fontweight="bold" if out else "normal")
    if out:
        for ends in ((0, 1), (1, 0)):
            axes.plot((0, 1), ends, color=style.colour(slot), linewidth=2, transform=axes.transAxes)


def _logits(axes: Axes, before: Tensor, after: Tensor, names: list[str], classes: list[int]) -> None:
    """Draw bars of the logits of the classes concerned, before and after."""
    for place, one in enumerate(classes):
        for offset, values, colour, label in (
            (-0.2, before, style.RULE, "before"),
            (0.2, after, style.TEXT, "after"),
        ):
            value = float(values[one])
            axes.barh(place + offset, value, 0.36, color=colour, edgecolor=style.MUTED, linewidth=0.6,
                      label=label if place == 0 else None)  # fmt: skip
            axes.annotate(f"{value:.2f}", (value, place + offset), xytext=(3 if value >= 0 else -3, 0), fontsize=6.5,
                          textcoords="offset points", va="center", ha="left" if value >= 0 else "right")  # fmt: skip
    axes.set_yticks(range(len(classes)), ["\n".join(_folded(one_line(names[one]))) for one in classes], fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.22)
    axes.axvline(0, color=style.MUTED, linewidth=0.8)
    axes.set_xlabel("logit")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=7)


def _folded(name: str, width: int = 16) -> list[str]:
    import textwrap

    return textwrap.wrap(name, width) or [name]
