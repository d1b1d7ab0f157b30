"""Test-time intervention: what becomes of the predictions when one prototype's contribution is set to zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Effects:
    """For each of P prototypes, over N images; all tensors are ``(P,)`` but the last.

    Attributes:
        corrected: images that were wrong and become right.
        broken: images that were right and become wrong.
        cases: ``(rows, 2)`` the corrected ones, as (prototype, image).
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
        """Prototypes that correct something, the best net effect first, then the most corrected."""
        order = torch.argsort(self.net * (int(self.corrected.max()) + 1) + self.corrected, descending=True, stable=True)
        return order[self.corrected[order] > 0]


def effects(logits: Tensor, scores: Tensor, labels: Tensor, k: int) -> Effects:
    """The effect of leaving out each prototype alone, exactly and without running the model again.

    Without prototype i the logit of its class falls by its score; every other logit stays.

    Args:
        logits: ``(N, C)``.
        scores: ``(N, C k)`` contributions, class by class: those of a class and the bias sum to its logit.
        labels: ``(N,)``.
        k: prototypes per class.
    """
    classes = logits.shape[1]
    right = logits.argmax(1) == labels
    top = logits.topk(2, dim=1)
    corrected = torch.zeros(classes * k, dtype=torch.long)
    broken = torch.zeros_like(corrected)
    cases = []
    for label in range(classes):
        lowered = logits[:, label, None] - scores[:, label * k : (label + 1) * k]
        # The best of the other classes, and where it is: the second where this class was first.
        first = top.indices[:, 0] == label
        rival = torch.where(first, top.values[:, 1], top.values[:, 0])
        rival_class = torch.where(first, top.indices[:, 1], top.indices[:, 0])
        # argmax takes the first of equals, so at a tie the lower class number wins.
        wins = (lowered > rival[:, None]) | ((lowered == rival[:, None]) & (label < rival_class)[:, None])
        prediction = torch.where(wins, label, rival_class[:, None])
        now_right = prediction == labels[:, None]
        own = slice(label * k, (label + 1) * k)
        corrected[own] = (now_right & ~right[:, None]).sum(0).cpu()
        broken[own] = (~now_right & right[:, None]).sum(0).cpu()
        image, prototype = (now_right & ~right[:, None]).nonzero(as_tuple=True)
        cases.append(torch.stack([prototype.cpu() + label * k, image.cpu()], 1))
    return Effects(corrected, broken, torch.cat(cases))
