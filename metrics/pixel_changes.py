"""Changes of an image's pixels that leave the object where it is: colours, blur, JPEG; on the images' device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from bench.core.colours import jitter

STRENGTH: Mapping[str, float] = {
    "brightness": 0.3,
    "contrast": 0.2,
    "saturation": 0.3,
    "hue": 0.2,
    "blur": 2.0,
    "jpeg": 20.0,
}
"""Default strengths: factors of three colour changes, turns of hue, the blur's standard deviation in pixels (those of
``local_perturbation_analysis.py`` of aiser-team/cabrnet), and JPEG's quality (ours; CaBRNet bends lines instead)."""
_JITTER = ("brightness", "contrast", "saturation", "hue")

# Tables K.1 and K.2 of ITU-T T.81, for quality 50.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = ("17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66" + 38 * " 99").split()


def changed(images: Tensor, kind: str, strength: float | None = None) -> Tensor:
    """Return images with one change of a fixed strength; nothing is drawn.

    Args:
        images: ``(N, 3, H, W)`` from 0 to 1.
        kind: a name of ``STRENGTH``.
        strength: ``None``: the default.

    Returns:
        ``(N, 3, H, W)`` from 0 to 1.
    """
    strength = STRENGTH[kind] if strength is None else strength
    if kind == "blur":
        return blurred(images, strength)
    if kind == "jpeg":
        return compressed(images, round(strength))
    # Factors 1 and a turn of 0 change nothing.
    row = [strength if name == kind else float(name != "hue") for name in _JITTER]
    factors = torch.stack([images.new_full((len(images),), value) for value in row], 1)
    return jitter(images, factors)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Blur images with a Gaussian of ``sigma`` pixels over 21 x 21 pixels; the border is mirrored.

    Smaller images than 11 pixels are blurred over as many pixels as mirroring allows.
    """
    half = min(10, min(images.shape[2:]) - 1)
    place = torch.arange(-half, half + 1, device=images.device, dtype=images.dtype)
    line = torch.exp(-place.square() / (2 * sigma**2))
    line = (line / line.sum()).expand(3, 1, 1, -1)
    padded = functional.pad(images, (half,) * 4, mode="reflect")
    return functional.conv2d(functional.conv2d(padded, line, groups=3), line.transpose(2, 3), groups=3).clamp(0, 1)


def compressed(images: Tensor, quality: int) -> Tensor:
    """Return images after the loss of JPEG: blocks of 8 x 8 pixels, colours at full resolution (ITU-T T.81, JFIF).

    Args:
        images: ``(N, 3, H, W)`` from 0 to 1.
        quality: from 1 to 100, as libjpeg scales the tables of the standard.
    """
    height, width = images.shape[2:]
    # A side that is no multiple of 8 is continued with its last pixels.
    pixels = functional.pad((255 * images).round(), (0, -width % 8, 0, -height % 8), mode="replicate")
    cosines, tables, mixing, unmixing = _jpeg(images.device, images.dtype, quality)
    # Encoders and decoders round the three values.
    colours = torch.einsum("dc,nchw->ndhw", mixing, pixels).round()
    colours[:, :1] -= 128  # the other two are centred at 0
    blocks = colours.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
    found = cosines @ blocks @ cosines.T
    tables = tables[:, None, None]
    # Halves go away from 0, as in libjpeg; of halves but for rounding too, or devices would decide them.
    kept = found.sign() * (found.abs() / tables + 0.5 + 1e-4).floor() * tables
    blocks = cosines.T @ kept @ cosines
    colours = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    colours[:, :1] += 128
    restored = torch.einsum("cd,ndhw->nchw", unmixing, colours.round())
    return (restored.round().clamp(0, 255) / 255)[:, :, :height, :width]


@lru_cache(maxsize=16)
def _jpeg(device: torch.device, dtype: torch.dtype, quality: int) -> tuple[Tensor, ...]:
    """Return the cosine transform ``(8, 8)``, each colour's steps ``(3, 8, 8)``, RGB to YCbCr and back ``(3, 3)``."""
    k, x = torch.arange(8, dtype=torch.float64)[:, None], torch.arange(8, dtype=torch.float64)
    cosines = torch.cos((2 * x + 1) * k * math.pi / 16) / 2
    cosines[0] /= math.sqrt(2)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    luma, chroma = (torch.tensor([float(v) for v in values]).view(8, 8) for values in (_LUMA.split(), _CHROMA))
    tables = torch.stack([luma, chroma, chroma])
    steps = ((tables * scale + 50) / 100).floor().clamp(1, 255)
    mixing = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    return tuple(matrix.to(device, dtype) for matrix in (cosines, steps, mixing, torch.linalg.inv(mixing)))
