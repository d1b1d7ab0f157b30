"""Which prototypes a model has, and for which classes they speak."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PrototypeTable(nn.Module):
    """Which classes each of P prototypes speaks for, and where it comes from.

    Args:
        classes: bool ``(P, C)``.
        vectors: ``(P, ...)`` or ``None`` where the method has none.

    The sources (index of the training image, row and column of its latent patch; -1 = none) are filled by
    methods that project their prototypes onto training patches.
    """

    classes: Tensor
    vectors: Tensor | None
    source_image: Tensor
    source_patch: Tensor

    def __init__(self, classes: Tensor, vectors: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("classes", classes.bool())
        self.register_buffer("vectors", vectors)
        self.register_buffer("source_image", torch.full((len(classes),), -1, dtype=torch.long))
        self.register_buffer("source_patch", torch.full((len(classes), 2), -1, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.classes)

    def of(self, classes: Tensor) -> Tensor:
        """Rows of the prototypes of each of N classes: ``(N,) -> (N, K)``, padded with -1 on the right."""
        owned = self.classes.T[classes]
        width = int(self.classes.sum(0).max()) if self.classes.numel() else 0
        # A stable sort keeps the table's order and moves the prototypes that a class owns to the front.
        order = torch.sort(owned.to(torch.uint8), dim=1, descending=True, stable=True).indices[:, :width]
        return torch.where(owned.gather(1, order), order, -1)
