"""Drawn features to measure with, where real ones would need a data set and a trained network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.core.seeding import derive

_PARTS = 6


def draw(label: int, images: int, hw: int, features: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features ``(images hw, D)`` like those after a last ReLU, and a classifier's row ``(D,)``, of one class.

    Six parts, each a sparse profile over the channels, lie at another place in every image as smooth blobs over a
    common background; noise follows, and the ReLU. About half of the entries are zero.
    """
    g = torch.Generator().manual_seed(derive(seed, "speed", label))
    side = math.ceil(math.sqrt(hw))

    def sparse(rows: int, density: float) -> Tensor:
        return torch.randn(rows, features, generator=g).square() * (torch.rand(rows, features, generator=g) < density)

    profiles, background = sparse(_PARTS, 0.25), sparse(1, 0.1)
    cells = torch.arange(hw)
    grid = torch.stack([cells // side, cells % side], 1) + 0.5
    centres = torch.rand(images, 1, _PARTS, 2, generator=g) * side
    widths = 0.5 + 1.5 * torch.rand(_PARTS, generator=g)
    heights = 0.5 + torch.rand(images, 1, _PARTS, generator=g)
    blobs = heights * torch.exp(-(grid[:, None] - centres).square().sum(3) / (2 * widths**2))
    x = blobs @ profiles + 0.3 * background
    x = x * (1 + 0.3 * torch.randn(x.shape, generator=g)) + 0.3 * torch.randn(x.shape, generator=g) - 0.1
    F = x.clamp(min=0).reshape(-1, features)
    return F, F.mean(0) - F.mean() + F.mean(0).std() * torch.randn(features, generator=g)
