"""Figure 1: where against what. Images as Grad-CAM, DFF and the decomposition explain them, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from bench.report.plots import style
from bench.report.plots.figure import Drawing, Missing
from bench.visualization.image_rows import absences, how
from bench.visualization.panels import all_prototypes, check_shown, picture, tints_together
from bench.visualization.viewer import Look, Viewer, by_name_or_number

EXPLANATIONS = {"gradcam": "Grad-CAM: where", "dff": "DFF: concepts", "ours": "ours: parts of the logit"}
"""The methods of the figure, with their headings."""
_SIDE = 1.75


def draw_explanations(
    viewers: Mapping[str, Viewer],
    images: Sequence[int],
    shown: Sequence[str] = (),
    missing: Sequence[Missing] = (),
) -> Drawing:
    """Draw a row for each image: the picture, then what each method shows of its true class.

    Args:
        viewers: opened cells of one black box, by method, in the order of the columns.
        images: positions in the test split.
        shown: ``region`` and ``keypoints``, or one of them.
        missing: methods that have no finished cell, with the commands that fit them.
    """
    looks = {
        (name, label): viewer.look(label)
        for name, viewer in viewers.items()
        for label in {int(viewer.test.labels[image]) for image in images}
    }
    first = next(iter(viewers.values()))
    carried = {name: _carried(viewer, images) for name, viewer in viewers.items()}
    title = f"Where against what: {', '.join(dict.fromkeys(look.class_name for look in looks.values()))}"
    alt = []
    with style.styled():
        figure = style.new_figure(_SIDE * (len(viewers) + 1), (_SIDE + 0.05) * len(images) + 0.45, title)
        grid = figure.subplots(len(images), len(viewers) + 1, squeeze=False)
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
        for row, image in enumerate(images):
            label = int(first.test.labels[image])
            for column, (name, axes) in enumerate(zip(viewers, grid[row, 1:], strict=True)):
                look = looks[name, label]
                check_shown(shown, look)
                place = look.index.tolist().index(image)
                if column == 0:
                    picture(grid[row, 0], look.pictures[place])
                    grid[row, 0].set_xlabel(str(first.test.ids[image]).rpartition("/")[2], fontsize=5.5)
                all_prototypes(axes, tints_together(look, torch.tensor([place]))[0], look, place, shown)
                part, whole = carried[name][row]
                axes.set_xlabel(f"shows {part:+.1f} of {whole:+.1f}", fontsize=7)
                if row == 0:
                    axes.set_title(EXPLANATIONS[name], fontsize=7.5)
                alt.append(f"{name}, image {row + 1}: {len(look.prototypes)} in colour, {part:+.1f} of {whole:+.1f}")
        grid[0, 0].set_title("image", fontsize=7.5)
    caption = (
        f"Test images of {first.cell.spec.dataset} under one black box ({first.cell.spec.backbone}, seed "
        f"{first.cell.spec.seed}), for their true classes. Below: what the colours carry of the class's logit, without "
        f"its bias. {how(_any(looks), shown, any(absences(look, len(look.index)) for look in looks.values()), False)}"
    )
    told = "Rows of images, each beside its explanations, in which colours show where a prototype is present. "
    cells = tuple(viewer.name for viewer in viewers.values())
    return Drawing("figure1", title, caption, f"{told}{'; '.join(alt)}.", figure, cells, tuple(missing))


def chosen_images(viewer: Viewer, wanted: Sequence[str], label: int, count: int) -> list[int]:
    """Return test images by number or name, or the first ``count`` of a class.

    Raises:
        RequestError: for an unknown image, with the nearest name.
    """
    if not wanted:
        return (viewer.test.labels == label).nonzero()[:count, 0].tolist()
    names = {str(name): at for at, name in enumerate(viewer.test.ids)}
    names |= {name.rpartition("/")[2]: at for name, at in names.items()}
    return by_name_or_number("test image", wanted, names, len(viewer.test))


@torch.no_grad()
def _carried(viewer: Viewer, images: Sequence[int]) -> list[list[float]]:
    """Return, for each image, what the prototypes carry of the true class's logit, and the logit, without offsets."""
    model = viewer.model
    batch = next(iter(viewer.test.batches(len(images), viewer.cell.device, index=torch.tensor(images))))
    features, labels = model.backbone(batch.images), batch.labels
    both: list[Callable[[torch.Tensor], torch.Tensor]] = [model.prototype_logits, model.logits]
    numbers = [way(features).gather(1, labels[:, None])[:, 0] - model.offset(labels) for way in both]
    return [[float(value) for value in pair] for pair in torch.stack(numbers, 1)]


def _any(looks: Mapping[tuple[str, int], Look]) -> Look:
    return next(reversed(looks.values()))
