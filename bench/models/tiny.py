"""TinyNet: a small convolutional feature extractor that trains on the demo data in a minute of processor time."""

from __future__ import annotations

import torch
from torch import nn


class TinyNet(nn.Module):
    """Small convolutional network: images -> non-negative features of stride 16.

    One cell of the result sees 79 x 79 pixels of the image, a third of it each way: a part and its surroundings but not
    the whole bird, so that features stay features of parts.

    Attributes:
        channels: Number of features.
        stride: Pixels of the image between two neighbouring cells.
    """

    stride = 16

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        self.channels = channels
        # After each block a cell sees 7, 15, 31, 47, 79, 79 pixels.
        self.layers = nn.Sequential(
            *_block(3, 24, kernel=7, stride=4),
            *_block(24, 48, kernel=3, stride=2),
            *_block(48, 48, kernel=3, stride=1),
            *_block(48, 96, kernel=3, stride=2),
            *_block(96, 96, kernel=3, stride=1),
            *_block(96, channels, kernel=1, stride=1),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features ``(N, channels, H / 16, W / 16)``, zero or more, of images ``(N, 3, H, W)``."""
        return self.layers(images)


def _block(inputs: int, outputs: int, *, kernel: int, stride: int) -> list[nn.Module]:
    """Return a convolution that keeps the size up to its stride, batch normalisation and ReLU."""
    # No bias: batch normalisation subtracts it again.
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
