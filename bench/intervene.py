"""Which single prototypes, left out, would correct predictions, and what they would break (paper, appendix A)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cell import Cell
from bench.contract import IMAGENET_MEAN, IMAGENET_STD, RequestError
from bench.posthoc.intervention import Effects, effects
from bench.posthoc.model import DecomposedClassifier

_BATCH = 64


@dataclass(frozen=True)
class Intervention:
    """The effects of leaving out each prototype of a cell's model, and what is needed to show them."""

    effects: Effects
    logits: Tensor
    labels: Tensor
    k: int
    class_names: list[str]
    image_ids: list[str]
    model: DecomposedClassifier
    test: Any

    @property
    def accuracy(self) -> float:
        """Of the whole model, in percent."""
        return 100 * float((self.logits.argmax(1) == self.labels).double().mean())

    def without(self, prototype: int) -> float:
        """Accuracy in percent without one prototype."""
        return self.accuracy + 100 * int(self.effects.net[prototype]) / len(self.labels)

    def cases(self, prototype: int) -> list[int]:
        """Images that leaving out the prototype corrects."""
        rows = self.effects.cases
        return [int(image) for image in rows[rows[:, 0] == prototype][:, 1]]


@torch.no_grad()
def intervene(cell: Cell) -> Intervention:
    """Look at every prototype of a finished cell once.

    Raises:
        RequestError: where the cell is not finished, or its model is no decomposed classifier.
    """
    if not cell.folder.done:
        raise RequestError(f"cell {cell.folder.path.name} is not finished: python -m bench cell {cell.folder.path}")
    splits: dict[str, Any] = cell.data()
    model, test = cell.load(splits["train"]), splits["test"]
    if not isinstance(model, DecomposedClassifier):
        raise RequestError(
            f"{cell.spec.method} is not an exact decomposition: its contributions do not add up to logits"
        )
    logits, scores = [], []
    total = -(-len(test) // _BATCH)
    for batch in cell.progress.track(test.batches(_BATCH, cell.device), "test batches", total):
        features = model.backbone(batch.images)
        # Scores without maps: the mean of x p over the cells is the mean of x times p.
        logits.append(model.logits(features).cpu())
        pooled = features.to(model.bias.dtype).mean((2, 3))
        scores.append((pooled @ model.vectors.flatten(0, 1).to(pooled.dtype).T).cpu())
    every = torch.cat(logits)
    found = effects(every, torch.cat(scores), test.labels, model.k)
    return Intervention(found, every, test.labels, model.k, list(test.class_names), list(test.ids), model, test)


@torch.no_grad()
def draw(result: Intervention, prototype: int, image: int, file: Path) -> None:
    """One case as in figure 7: the image, and the maps of the class whose prototype is left out.

    Args:
        result: of :func:`intervene`.
        prototype: the one that is left out.
        image: position in the test split.
        file: where the picture goes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    batch = next(iter(result.test.batches(1, result.model.bias.device, index=torch.tensor([image]))))
    before = int(result.logits[image].argmax())
    after = int(result.model.without([prototype])(batch.images).argmax())
    owner = prototype // result.k
    maps = result.model.explain(batch.images, torch.tensor([owner], device=batch.images.device)).maps[0].cpu()
    side = result.test.size
    large = torch.nn.functional.interpolate(maps[None], (side, side), mode="bicubic", align_corners=False)[0]
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    picture = (batch.images[0].cpu().permute(1, 2, 0) * std + mean).clamp(0, 1)
    figure, axes = pyplot.subplots(1, result.k + 1, figsize=(2.6 * (result.k + 1), 3.1), layout="constrained")
    axes[0].imshow(picture.numpy())
    axes[0].set_title(
        f"{result.image_ids[image].rsplit('/', 1)[-1]}\ntrue: {result.class_names[result.labels[image]]}", fontsize=7
    )
    limit = float(large.abs().max())
    for position in range(result.k):
        row = owner * result.k + position
        axes[position + 1].imshow(picture.numpy())
        axes[position + 1].imshow(large[position].numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.55)
        contribution = float(maps[position].mean())
        out = ", left out" if row == prototype else ""
        title = f"prototype {row} of {result.class_names[owner]}\ncontribution {contribution:+.2f}{out}"
        axes[position + 1].set_title(title, fontsize=7, fontweight="bold" if out else "normal")
    for axis in axes:
        axis.set_axis_off()
    figure.suptitle(f"predicted {result.class_names[before]}; without it {result.class_names[after]}", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
