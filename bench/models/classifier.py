"""The black box: a feature extractor, global average pooling, one linear layer."""

from __future__ import annotations

from torch import Tensor, nn


class Classifier(nn.Module):
    """Images ``(N, 3, H, W)`` -> logits ``(N, classes)``.

    Args:
        backbone: with attribute ``channels``.
        classes: how many.
    """

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(int(backbone.channels), classes)  # type: ignore[arg-type]

    def logits(self, features: Tensor) -> Tensor:
        """Features ``(N, D, h, w)`` -> logits ``(N, classes)``."""
        return self.head(features.mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        """Images -> logits."""
        return self.logits(self.backbone(images))
