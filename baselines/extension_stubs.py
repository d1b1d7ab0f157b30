"""Stand-ins for packages that official code imports, for use if they are not installed.

``DCN`` is the compiled extension of Deformable ProtoPNet, for CUDA alone and for old releases of torch; its one
operation is written here in plain torch (Donnelly et al., CVPR 2022). ``torchsummary`` is imported there and never
used.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


def norm_preserve_deform_conv_forward(
    input: Tensor, weight: Tensor, bias: Tensor, offset: Tensor, *sizes: Any
) -> tuple[Tensor, None]:
    """Compute a deformable convolution of the roots of interpolated squares, zero outside the map.

    Args:
        input: ``(N, D, h, w)``.
        weight: ``(P, D, a, b)``.
        bias: ``(P,)``.
        offset: ``(N, 2 a b, h', w')``: row and column by which each tap is moved, in cells.
        sizes: kernel, stride, padding and dilation, rows before columns; the rest configures the CUDA code.

    Returns:
        ``(N, P, h', w')``, and ``None`` in place of the buffers of a backward pass.
    """
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = sizes[:8]
    height, width = input.shape[2:]
    squares = input.square()
    rows = stride_h * torch.arange(offset.shape[2], device=input.device)[:, None] - pad_h
    columns = stride_w * torch.arange(offset.shape[3], device=input.device) - pad_w
    total = bias[:, None, None]
    for tap in range(kernel_h * kernel_w):
        i, j = divmod(tap, kernel_w)
        y = rows + dilation_h * i + offset[:, 2 * tap]
        x = columns + dilation_w * j + offset[:, 2 * tap + 1]
        # From cells to the coordinates of grid_sample, which run from -1 to 1 between the map's outer edges.
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
        sampled = nn.functional.grid_sample(squares, grid, padding_mode="zeros", align_corners=False)
        total = total + nn.functional.conv2d(sampled.sqrt(), weight[:, :, i, j, None, None])
    return total, None


def stand_ins() -> tuple[ModuleType, ...]:
    """Return ``DCN`` and ``torchsummary``, as far as forward passes need them."""
    extension, summary = ModuleType("DCN"), ModuleType("torchsummary")
    extension.norm_preserve_deform_conv_forward = norm_preserve_deform_conv_forward  # type: ignore[attr-defined]
    summary.summary = None  # type: ignore[attr-defined]
    return extension, summary
