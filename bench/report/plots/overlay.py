"""Presence maps on pictures: upsampled as the part metrics do, one colour for each prototype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Share of the colour at a peak, and share of a map's range from which on it is tinted.
_OPAQUE = 0.72
_START = 0.5


def pictures(images: Tensor, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Convert images ``(N, 3, H, W)``, normalised with mean and std, to ``(N, size, size, 3)`` pictures from 0 to 1."""
    shift, spread = (images.new_tensor(values)[:, None, None] for values in (mean, std))
    plain = images * spread + shift
    if plain.shape[-2:] != (size, size):
        plain = torch.nn.functional.interpolate(plain, (size, size), mode="bilinear", antialias=True)
    return plain.clamp(0, 1).movedim(1, -1)


def upsampled(maps: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Upsample maps ``(N, K, h, w)`` to a canvas: ``(N, K, size, size)``, float64.

    Bicubic with a = -0.75, half-pixel centres and a replicated border, as for the peaks that consistency and stability
    take (a test compares the two).
    """
    height, width = (size, size) if isinstance(size, int) else size
    return torch.nn.functional.interpolate(maps.double(), (height, width), mode="bicubic", align_corners=False)


def heat(maps: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Stretch each upsampled map from 0 at its lowest pixel to 1 at its highest.

    A constant map is 0, and so is one that is nowhere positive: the prototype is absent, and its least absent place
    does not show it.
    """
    large = upsampled(maps, size)
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    span = high - low
    # Rounding of a constant map must not look like content.
    flat = span <= 1e-12 * large.abs().amax((2, 3), keepdim=True)
    return torch.where(flat | ~present(maps)[..., None, None], 0.0, (large - low) / span.clamp(min=1e-300))


def present(maps: Tensor) -> Tensor:
    """Return which prototypes are present at all, by their maps ``(..., h, w)``: bool ``(...)``, a positive cell."""
    return maps.amax((-2, -1)) > 0


def tinted(plain: Tensor, warmth: Tensor, colours: Tensor) -> Tensor:
    """Tint pictures with each map's colour, over the upper half of the map's range.

    If several prototypes are present, the pixel has the colour of the one that is nearest to its own peak value.

    Args:
        plain: ``(N, H, W, 3)`` from 0 to 1.
        warmth: ``(N, K, H, W)`` from :func:`heat`.
        colours: ``(K, 3)`` from 0 to 1, or ``(N, K, 3)``.

    Returns:
        ``(N, H, W, 3)`` from 0 to 1.
    """
    top, which = warmth.max(1)
    share = ((top - _START) / (1 - _START)).clamp(0, 1)
    # Smooth at both ends, so that areas have soft borders and full colour around the peak.
    alpha = (_OPAQUE * share * share * (3 - 2 * share))[..., None].to(plain.dtype)
    grey = plain.mean(-1, keepdim=True)
    # Half of the picture's own colour: enough to see its content, too little to be taken for a prototype's.
    faded = (plain + grey) / 2
    colours = colours.to(plain).expand(len(plain), -1, -1)
    chosen = colours.gather(1, which.flatten(1)[..., None].expand(-1, -1, 3)).view(plain.shape)
    return (1 - alpha) * faded + alpha * chosen


def rgb(colours: Sequence[str]) -> Tensor:
    """Convert ``#RRGGBB`` to ``(K, 3)`` from 0 to 1."""
    return torch.tensor([[int(one[i : i + 2], 16) / 255 for i in (1, 3, 5)] for one in colours])
