"""Effects of leaving out single prototypes: predictions that this corrects or breaks (paper, appendix A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.contract import RequestError
from bench.posthoc.intervention import Effects, effects
from bench.posthoc.model import DecomposedClassifier
from bench.runner.cell import CellRunner

# Images per forward pass.
_BATCH = 64


@dataclass(frozen=True)
class Intervention:
    """Effects of leaving out each prototype of a cell's model, with the data to draw them."""

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
        """Accuracy of the whole model in percent."""
        return 100 * float((self.logits.argmax(1) == self.labels).double().mean())

    def number(self, prototype: int) -> int:
        """Return the number of a prototype within its class, from 1, as in the figures."""
        return prototype % self.k + 1

    def owner(self, prototype: int) -> str:
        """Return the class name of a prototype."""
        return self.class_names[prototype // self.k]

    def without(self, prototype: int) -> float:
        """Return the accuracy in percent without one prototype."""
        return self.accuracy + 100 * int(self.effects.net[prototype]) / len(self.labels)

    def cases(self, prototype: int) -> list[int]:
        """Return the images that are corrected by leaving out the prototype."""
        rows = self.effects.cases
        return [int(image) for image in rows[rows[:, 0] == prototype][:, 1]]


@torch.no_grad()
def intervene(cell: CellRunner) -> Intervention:
    """Compute the effects of leaving out each prototype of a finished cell.

    Raises:
        RequestError: if the cell is not finished, or its model is no decomposed classifier.
    """
    if not cell.folder.done:
        raise RequestError(f"cell {cell.folder.path.name} is not finished: python -m bench cell {cell.folder.path}")
    splits: dict[str, Any] = cell.inputs.data()
    model, test = cell.load(splits["train"]), splits["test"]
    if not isinstance(model, DecomposedClassifier):
        raise RequestError(
            f"{cell.spec.method} is not an exact decomposition: its contributions do not add up to logits"
        )
    logits, scores = [], []
    total = -(-len(test) // _BATCH)
    for batch in cell.progress.track(test.batches(_BATCH, cell.device), "test batches", total):
        features = model.backbone(batch.images)
        # Scores without maps: the mean of x p over the locations is the mean of x times p.
        logits.append(model.logits(features).cpu())
        pooled = features.to(model.bias.dtype).mean((2, 3))
        scores.append((pooled @ model.vectors.flatten(0, 1).to(pooled.dtype).T).cpu())
    every = torch.cat(logits)
    result = effects(every, torch.cat(scores), test.labels, model.k)
    names = cell.inputs.head_names
    return Intervention(result, every, test.labels, model.k, names, list(test.ids), model, test)
