"""Input that a network was trained on: mean, deviation, interpolation, crop share and size of its images."""

from __future__ import annotations

from dataclasses import dataclass

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class InputConfig:
    """Preprocessing that belongs to a network's weights.

    Attributes:
        mean: mean of each RGB channel in [0, 1], subtracted from the pixels.
        std: deviation of each RGB channel, by which they are divided.
        interpolation: ``bilinear`` or ``bicubic``, of the resizing in evaluation.
        crop_share: share of the shorter side that the centre crop keeps in evaluation, for example 0.875.
        size: side of the square input in pixels.
    """

    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop_share: float = 0.875
    size: int = 224
