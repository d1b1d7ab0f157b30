"""Changes of brightness, contrast, saturation and hue of images on their device, as torchvision makes them."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.core.memory import to_device


def jitter(images: Tensor, colour: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of images ``(N, 3, H, W)`` from 0 to 1, in that order.

    ``colour (N, 4)`` has three factors, and turns of hue.
    """
    brightness, contrast, saturation, turns = colour[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp_(0, 1)
    mean = grey(images).mean((2, 3), keepdim=True)
    images = torch.lerp(mean, images, contrast).clamp_(0, 1)
    return turn_hue(torch.lerp(grey(images), images, saturation).clamp_(0, 1), turns)


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of images ``(N, 3, H, W)`` from 0 to 1 by ``turns (N, 1, 1, 1)`` of the colour circle."""
    red, green, blue = images.split(1, 1)
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    divisor = torch.where(chroma > 0, chroma, 1)
    sixth = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    k = (to_device(torch.tensor([5.0, 3.0, 1.0]), images.device).view(3, 1, 1) + sixth + 6 * turns).remainder(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


def grey(images: Tensor) -> Tensor:
    """Return the brightness of images ``(N, 3, H, W)`` as eyes weigh the colours: ``(N, 1, H, W)``."""
    red, green, blue = images.split(1, 1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue
