"""Test-time intervention: predictions after the contribution of one prototype is set to zero (paper, appendix A)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Effects:
    """Effects of removing each of P prototypes, over N images.

    Attributes:
        corrected: number of images that were wrong and become right ``(P,)``.
        broken: number of images that were right and become wrong ``(P,)``.
        cases: corrected images as pairs (prototype, image) ``(rows, 2)``.
    """

    corrected: Tensor
    broken: Tensor
    cases: Tensor

    @property
    def net(self) -> Tensor:
        """Change in the number of right predictions."""
        return self.corrected - self.broken

    @property
    def ranking(self) -> Tensor:
        """Prototypes that correct any image, by net effect and then by corrected images, largest first."""
        order = torch.argsort(self.net * (int(self.corrected.max()) + 1) + self.corrected, descending=True, stable=True)
        return order[self.corrected[order] > 0]


def effects(logits: Tensor, scores: Tensor, labels: Tensor, k: int) -> Effects:
    """Compute the effect of removing each prototype alone, exactly and without another forward pass.

    Without prototype i the logit of its class falls by its score; every other logit stays.

    Args:
        logits: logits ``(N, C)``.
        scores: contributions ``(N, C k)``, class by class: those of a class and the bias sum to its logit.
        labels: true classes ``(N,)``.
        k: prototypes per class.

    Example:
        Two classes with one prototype each; both images are of class 1. Without prototype 0 the first, which was
        wrong, becomes right.

        >>> logits, scores = torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([[2.0, 1.0], [0.0, 1.0]])
        >>> effects(logits, scores, torch.tensor([1, 1]), k=1).corrected
        tensor([1, 0])
    """
    classes = logits.shape[1]
    right = logits.argmax(1) == labels
    top = logits.topk(2, dim=1)
    corrected = torch.zeros(classes * k, dtype=torch.long)
    broken = torch.zeros_like(corrected)
    cases = []
    for label in range(classes):
        lowered = logits[:, label, None] - scores[:, label * k : (label + 1) * k]
        # The best of the other classes: the runner-up in images in which this class was first.
        first = top.indices[:, 0] == label
        rival = torch.where(first, top.values[:, 1], top.values[:, 0])
        rival_class = torch.where(first, top.indices[:, 1], top.indices[:, 0])
        # argmax takes the first of equals, so at a tie the lower class number wins.
        wins = (lowered > rival[:, None]) | ((lowered == rival[:, None]) & (label < rival_class)[:, None])
        prediction = torch.where(wins, label, rival_class[:, None])
        now_right = prediction == labels[:, None]
        prototypes = slice(label * k, (label + 1) * k)
        corrected[prototypes] = (now_right & ~right[:, None]).sum(0).cpu()
        broken[prototypes] = (~now_right & right[:, None]).sum(0).cpu()
        image, prototype = (now_right & ~right[:, None]).nonzero(as_tuple=True)
        cases.append(torch.stack([prototype.cpu() + label * k, image.cpu()], 1))
    return Effects(corrected, broken, torch.cat(cases))
