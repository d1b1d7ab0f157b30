"""Drawings of prototypes: the training images in which each is strongest, its patch and its heatmap."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.contract import IMAGENET_MEAN, IMAGENET_STD, Progress
from bench.posthoc.progress import LoggingProgress
from bench.posthoc.wrap.batches import batch_of
from bench.posthoc.wrap.classifier import PartPrototypeClassifier
from bench.report.plots import style
from bench.report.plots.overlay import heat, rgb, tinted


@dataclass(order=True)
class Example:
    """Image in which a prototype is strong.

    Attributes:
        strength: the map's largest value; ``order`` breaks ties so that the first image stays.
        order: minus the image's position in the loader.
        image: uint8 ``(H, W, 3)``.
        heatmap: ``(h, w)``, the map of the prototype.
    """

    strength: float
    order: int
    image: Any = field(compare=False)
    heatmap: Tensor = field(compare=False)


@torch.no_grad()
def strongest(
    model: PartPrototypeClassifier,
    loader: Iterable[Any],
    classes: Sequence[int],
    top: int = 5,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    progress: Progress | None = None,
) -> dict[int, list[list[Example]]]:
    """Return for each class and each of its prototypes the ``top`` images of that class with the largest map values.

    Images of other classes are not run through the model. Arguments as for :func:`draw`.
    """
    kept: dict[int, list[list[Example]]] = {label: [[] for _ in range(model.k)] for label in classes}
    first = next(model.classifier.parameters())
    shift = torch.tensor(mean, device=first.device)[:, None, None]
    spread = torch.tensor(std, device=first.device)[:, None, None]
    place = 0
    for batch in LoggingProgress(progress).track(loader, "batches drawn from"):
        images, labels = batch_of(batch, first.device, first.dtype)
        chosen = [i for i, label in enumerate(labels) if label in kept]
        if chosen:
            own = torch.tensor([labels[i] for i in chosen], device=first.device)
            maps = model.explain(images[chosen], own).maps.float().cpu()
            for row, i in enumerate(chosen):
                pixels = None
                for j, heap in enumerate(kept[labels[i]]):
                    strength = float(maps[row, j].max())
                    if len(heap) == top and (strength, -(place + i)) <= (heap[0].strength, heap[0].order):
                        continue
                    if pixels is None:
                        plain = (images[i].float() * spread + shift).clamp(0, 1)
                        pixels = (plain * 255).round().byte().permute(1, 2, 0).cpu().numpy()
                    example = Example(strength, -(place + i), pixels, maps[row, j])
                    (heapq.heappush if len(heap) < top else heapq.heappushpop)(heap, example)
        place += len(labels)
    return {label: [sorted(heap, reverse=True) for heap in heaps] for label, heaps in kept.items()}


def draw(
    model: PartPrototypeClassifier,
    loader: Iterable[Any],
    folder: Path | str,
    classes: Sequence[int] | None = None,
    top: int = 5,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    progress: Progress | None = None,
) -> list[Path]:
    """Draw one PNG per class: a row per prototype, with patch and heatmap of its strongest images.

    Args:
        model: decomposed classifier.
        loader: batches ``(images, labels)`` as for ``decompose``.
        folder: output folder, created if it does not exist.
        classes: class numbers; default: the first twelve (each keeps its examples in memory while the loader is read).
        top: images per prototype.
        mean: mean that the loader's images were normalised with.
        std: standard deviation that they were normalised with.
        progress: reporter of batches.

    Returns:
        The files, in the order of the classes; classes without images have none.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if classes is None:
        classes = range(min(12, len(model.class_names)))
    found = strongest(model, loader, classes, top, mean, std, progress)
    files = []
    for label in classes:
        if any(found[label]):
            name = re.sub(r"[^A-Za-z0-9._-]+", "_", model.class_names[label])[:60]
            file = folder / f"class_{label:04d}_{name}.png"
            with style.styled():
                _draw_class(model, label, found[label], top, file)
            files.append(file)
    return files


def _draw_class(
    model: PartPrototypeClassifier, label: int, prototypes: list[list[Example]], top: int, file: Path
) -> None:
    from matplotlib.patches import Rectangle

    width = min(top, max(len(examples) for examples in prototypes))
    figure = style.new_figure(2.6 * width + 0.5, 1.75 * len(prototypes) + 0.5)
    axes = figure.subplots(len(prototypes), 2 * width, squeeze=False, gridspec_kw={"width_ratios": [0.55, 1.0] * width})
    title = f"{model.class_names[label]}: {len(prototypes)} prototypes, patch and heatmap where strongest"
    if any(example.strength <= 0 for examples in prototypes for example in examples):
        title += "\nabsent: the map is nowhere positive in that image"
    figure.suptitle(title)
    for axis in axes.flat:
        axis.set_axis_off()
    for j, examples in enumerate(prototypes):
        colour = style.colour(j)
        for column, example in enumerate(examples):
            patch, whole = axes[j, 2 * column], axes[j, 2 * column + 1]
            whole.imshow(_tinted(example, colour))
            if example.strength > 0:
                top_, left, height, wide = _window(example)
                patch.imshow(example.image[top_ : top_ + height, left : left + wide])
                whole.add_patch(Rectangle((left - 0.5, top_ - 0.5), wide, height, fill=False, edgecolor=colour, lw=2))
            else:
                patch.text(0.5, 0.5, "absent", fontsize=7, ha="center", va="center", transform=patch.transAxes)
            for axis in (patch, whole):
                axis.set_axis_on()
                axis.set_xticks([])
                axis.set_yticks([])
                for side in axis.spines.values():
                    side.set(visible=True, edgecolor=colour, linewidth=1.5)
            whole.set_title(f"{example.strength:.2f}", fontsize=7, pad=2)
        if examples:
            axes[j, 0].set_ylabel(f"prototype {j + 1}", fontsize=8)
    style.tame(figure)
    figure.savefig(file, dpi=110)


def _tinted(example: Example, colour: str) -> Any:
    plain = torch.from_numpy(example.image)[None] / 255
    warmth = heat(example.heatmap[None, None], (plain.shape[1], plain.shape[2]))
    return tinted(plain, warmth, rgb([colour]))[0].numpy()


def _window(example: Example) -> tuple[int, int, int, int]:
    """Return top, left, height and width of about two cells around the strongest, at least an eighth of the image."""
    H, W = example.image.shape[:2]
    h, w = example.heatmap.shape
    best = int(example.heatmap.argmax())
    row, column = best // w, best % w
    height, width = (max(round(2 * n / cells), n // 8, 1) for n, cells in ((H, h), (W, w)))
    height, width = min(height, H), min(width, W)
    top = round((row + 0.5) * H / h - height / 2)
    left = round((column + 0.5) * W / w - width / 2)
    return max(0, min(top, H - height)), max(0, min(left, W - width)), height, width
