"""Norm-preserving deformable convolution (Donnelly et al., Deformable ProtoPNet, CVPR 2022).

Kernel 2 x 2, stride 1, padding 1, dilation 2: the output cell (y, x) compares the four parts (i, j) of a prototype with
the features at (y - 1 + 2i, x - 1 + 2j), each location moved by an offset that all prototypes share. Between cells a
feature is the root of the interpolated squares: if all cells have one norm, so has every location between them.
Gradients are those of this forward pass, or those of the released CUDA code (``gradient="released"``), which are
not: its backward has the features in place of their squares in the gradients of offsets and prototypes.

Shapes: features z ``(N, D, h, w)``, prototypes ``(P, D, 2, 2)``, offsets ``(N, 8, h, w)`` in cells, ordered row, column
of part (0, 0), then of (0, 1), (1, 0), (1, 1).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bench.core.memory import to_device

KERNEL, PADDING, DILATION = 2, 1, 2
PARTS = KERNEL * KERNEL
Gradient = Literal["exact", "released"]
_RELEASED_EPSILON = 1e-8


def corners(offsets: Tensor, summed: bool = False) -> tuple[Tensor, Tensor]:
    """Find the four cells around each moved location, and their bilinear weights.

    Args:
        offsets: displacements in cells.
        summed: round each location to the precision of the offsets, as the released code does by adding an offset to
            the number of its cell, and leave out locations at -1 and before.

    Returns:
        Row numbers ``(N, h, w, 4, 4)`` of the last but one axis's parts and the last axis's corners in a table of
        all ``N h w`` cells, and as many weights: zero for corners outside the map.
    """
    n, _, height, width = offsets.shape
    device = offsets.device
    offsets = offsets.view(n, PARTS, 2, height, width).permute(0, 3, 4, 1, 2)
    # Rows h - 1 and h + 1 of the map: what the released operation samples, not what its drawings show.
    taps = DILATION * torch.arange(KERNEL, device=device) - PADDING
    taps = torch.cartesian_prod(taps, taps)
    locations = torch.cartesian_prod(torch.arange(height, device=device), torch.arange(width, device=device))
    unmoved = (locations[:, None] + taps).view(height, width, PARTS, 2)
    if summed:
        offsets = (unmoved + offsets) - unmoved
    # The fraction is taken of the offset alone: at cell 10, an offset of 1e-7 would vanish in the sum.
    whole = offsets.detach().floor()
    fraction = offsets - whole
    start = whole.long() + unmoved
    low_and_high = start[..., None] + torch.arange(2, device=device)
    size = to_device(torch.tensor([[height], [width]]), device)
    inside = (low_and_high >= 0) & (low_and_high < size)
    if summed:
        inside &= (unmoved + offsets > -1)[..., None]
    share = torch.stack([1 - fraction, fraction], -1) * inside
    row, column = torch.minimum(low_and_high.clamp(min=0), size - 1).unbind(-2)
    image = torch.arange(n, device=device)[:, None, None, None, None, None]
    cells = (image * height + row[..., :, None]) * width + column[..., None, :]
    weights = share[..., 0, :, None] * share[..., 1, None, :]
    return cells.flatten(4), weights.flatten(4)


def interpolate(table: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    """Compute weighted sums of table rows: table ``(R, D)``, cells and weights ``(..., 4)`` -> ``(..., D)``."""
    # On the CPU half the time of `grid_sample`, and the same bits every time on CUDA, whose `grid_sample` gradient
    # adds in any order.
    bags = functional.embedding_bag(cells.reshape(-1, 4), table, per_sample_weights=weights.reshape(-1, 4), mode="sum")
    return bags.view(*cells.shape[:-1], table.shape[1])


def norm_preserving_conv(z: Tensor, prototypes: Tensor, offsets: Tensor | None, gradient: Gradient = "exact") -> Tensor:
    """Compute the products of every moved 2 x 2 patch with every prototype: ``(N, P, h, w)``.

    Features are read as their absolute values: the root of a square. Features of a ReLU are not changed by it.

    Args:
        z: features.
        prototypes: vectors of the features' depth.
        offsets: displacements of the parts; ``None``: none is moved.
        gradient: ``exact``: of the returned values; ``released``: see :func:`_released_gradient`.
    """
    if offsets is None:
        # A plain dilated convolution gives the same numbers sooner.
        return functional.conv2d(z.abs(), prototypes, padding=PADDING, dilation=DILATION)
    weight = prototypes.permute(0, 2, 3, 1).flatten(1)
    if gradient == "released":
        return _released_gradient(z, weight, offsets).permute(0, 3, 1, 2)
    squares = interpolate(_rows(z.square()), *corners(offsets))
    # The root has no slope at 0: there the gradient is 0, as outside the map.
    samples = squares.clamp_min(torch.finfo(z.dtype).tiny).sqrt()
    return (samples.flatten(3) @ weight.T).permute(0, 3, 1, 2)


def _released_gradient(z: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """Compute the products ``(N, h, w, P)`` with the gradients of the released ``norm_preserve_deform_conv``.

    With s the interpolated squares, v the interpolated features and g the gradient of a sample, the released backward
    has ``g / (2 sqrt(s) + 1e-8)`` times ``2 z`` for the features (right but for the small number), times the slope of
    v, not of s, for the offsets; and v, not ``sqrt(s)``, for the prototypes. Where s is 0 beside a feature that is not,
    the factor is 1e8: at their opening offsets have gradients 70,000 times as long as the exact ones.

    Args:
        z: features ``(N, D, h, w)``.
        weight: prototypes ``(P, 4 D)``.
        offsets: displacements ``(N, 8, h, w)``.
    """
    cells, shares = corners(offsets, summed=True)
    squares = interpolate(_rows(z.square()), cells, shares.detach())
    linear = interpolate(_rows(z.detach()), cells, shares)
    factor = 1 / (2 * squares.detach().sqrt() + _RELEASED_EPSILON)
    # Sums of a value without gradient and a difference that is 0 with one: each factor gets the gradient of its own.
    path = factor * (squares + linear)
    samples = (squares.detach().sqrt() + (path - path.detach())).flatten(3)
    of_prototypes = linear.detach().flatten(3) @ weight.T
    return samples @ weight.detach().T + (of_prototypes - of_prototypes.detach())


def linear_patches(z: Tensor, offsets: Tensor, image: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Read the features, interpolated linearly, at the four moved locations of given output cells.

    Args:
        z: features.
        offsets: displacements in the same images.
        image: ``(B,)``, number within the batch.
        row: ``(B,)``, of the output cell.
        column: ``(B,)``, of the output cell.

    Returns:
        ``(B, D, 2, 2)``, zero outside the map.
    """
    cells, weights = (values[image, row, column] for values in corners(offsets))
    patches = interpolate(_rows(z), cells, weights)
    return patches.view(len(image), KERNEL, KERNEL, z.shape[1]).permute(0, 3, 1, 2)


def _rows(z: Tensor) -> Tensor:
    return z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
