"""Maps of cells spread over pixels by Gaussian kernels on their receptive fields (Carmichael et al., WACV 2024)."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.contract import NotApplicable

Display = Literal["cells", "max", "mean", "sum"]


def receptive_fields(backbone: Any, size: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the rows and the columns of pixels, from and below, that each row and column of cells can depend on.

    Every weight of a copy of the backbone is set to the same positive number and every maximum to a mean, so that the
    gradient of a cell is positive in its receptive field and zero outside.

    Args:
        backbone: network of convolutions, pooling, normalisation and rectifiers.
        size: side of the images in pixels.
    """
    even = _evened(copy.deepcopy(backbone)).double().cpu().eval().requires_grad_(False)
    image = torch.full((1, 3, size, size), 1e-3, dtype=torch.float64, requires_grad=True)
    cells = even(image).sum(1)[0]
    found: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for axis, ends in enumerate(found):
        for number in range(cells.shape[axis]):
            (gradient,) = torch.autograd.grad(cells.select(axis, number).sum(), image, retain_graph=True)
            reached = gradient[0].sum(0).ne(0).any(1 - axis).nonzero()
            if not len(reached):
                raise NotApplicable("the receptive fields of this backbone cannot be found")
            ends.append((int(reached[0]), int(reached[-1]) + 1))
    return found


def _evened(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            nn.init.constant_(child.weight, 1 / child.weight[0].numel())
            if child.bias is not None:
                nn.init.zeros_(child.bias)
        if isinstance(child, nn.MaxPool2d):
            setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode))
        elif isinstance(child, nn.modules.batchnorm._BatchNorm | nn.ReLU | nn.ReLU6 | nn.Dropout | nn.SiLU):
            setattr(module, name, nn.Identity())
        else:
            _evened(child)
    return module


def windows(backbone: Any, size: int) -> tuple[Tensor, Tensor]:
    """Return the kernels of rows and of columns of cells, ``(h, size)`` and ``(w, size)``; a cell has their product.

    Args:
        backbone: network whose receptive fields decide.
        size: side of the images in pixels.
    """
    rows, columns = receptive_fields(backbone, size)
    return kernel_windows(rows, columns, size)


def kernel_windows(rows: list[tuple[int, int]], columns: list[tuple[int, int]], size: int) -> tuple[Tensor, Tensor]:
    """Return the kernels of receptive fields, see :func:`windows`.

    A kernel is ``exp(-x^2 / 2 sigma^2)`` about its middle, as long as the longest field and with that length for sigma,
    and divided by its largest value; a field that the border cuts gets the part of it inside. If several fields are as
    large as the image, the middles are those of equal squares, and kernels so long that each reaches all of the image.
    """
    longest = [max(end - start for start, end in fields) for fields in (rows, columns)]
    full = [[end - start >= size for start, end in fields] for fields in (rows, columns)]
    # Cells of whose field a side is as long as the image's.
    large = [(i, k) for i in range(len(rows)) for k in range(len(columns)) if full[0][i] or full[1][k]]
    middles: list[list[int]] = []
    if len(large) > 1:
        for axis, fields in enumerate((rows, columns)):
            # Official: fields as large as the image would all have its middle, so cells are placed on equal squares.
            centres = [round((number + 0.5) * size / len(fields)) for number in range(len(fields))]
            middles.append(centres)
            longest[axis] += 2 * round(max(abs((size - 1) / 2 - centres[cell[axis]]) for cell in large))
    side = max(longest)
    x = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    # Official sigma: the side of the longest field, times 1.0.
    kernel = torch.exp(-0.5 * (x / side).square())
    kernel /= kernel.max()
    found = []
    for axis, fields in enumerate((rows, columns)):
        window = torch.zeros(len(fields), size, dtype=torch.float64)
        for number, (start, end) in enumerate(fields):
            if middles:
                before = longest[axis] // 2 - middles[axis][number]
                skipped = max(before, 0) + (size - (end - start) if end - start < size and start else 0)
            else:
                # At the upper or left border the beginning of the kernel is outside, at the other its end.
                skipped = longest[axis] - (end - start) if end - longest[axis] < 0 else 0
            part = kernel[skipped : skipped + end - start]
            window[number, start : start + len(part)] = part
        found.append(window.float())
    return found[0], found[1]


def spread(cells: Tensor, rows: Tensor, columns: Tensor, join: Display) -> Tensor:
    """Spread non-negative maps ``(N, P, h, w)`` over pixels: ``(N, P, size, size)``.

    Args:
        cells: similarities of cells.
        rows: kernels of the rows of cells ``(h, size)``.
        columns: kernels of the columns ``(w, size)``.
        join: of the cells whose kernels reach a pixel: the largest value, the mean or the sum.
    """
    rows, columns = rows.to(cells), columns.to(cells)
    if join == "max":
        # The kernel of a cell is a product, and nothing is negative: the largest over columns, then over rows.
        wide = torch.stack([cells[..., k, None] * columns[k] for k in range(len(columns))]).amax(0)
        return torch.stack([wide[:, :, i, None] * rows[i][:, None] for i in range(len(rows))]).amax(0)
    total = torch.einsum("npik,iy,kx->npyx", cells, rows, columns)
    if join == "sum":
        return total
    return total / torch.einsum("iy,kx->yx", (rows > 0).to(cells), (columns > 0).to(cells)).clamp(min=1)
