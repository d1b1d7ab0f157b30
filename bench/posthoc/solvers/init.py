"""Starting points of the factorisations, drawn from a separate generator for every class."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench.core.memory import to_device
from bench.core.seeding import derive

Init = Literal["random", "nndsvd"]

# Directions of the sketch beyond k, and products with F F^T that sharpen it (Halko et al. 2011, algorithm 4.4).
_OVERSAMPLING = 5
_POWER_ITERATIONS = 2
_LLOYD_ITERATIONS = 20


def initialise(
    F: Tensor, rows: Tensor, k: int, seed: int, classes: list[int], init: Init = "random", *, fill: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute non-negative starting factors.

    Args:
        F: features ``(B, M, D)``, non-negative, zero beyond a class's valid rows.
        rows: number of valid rows per class ``(B,)``.
        k: number of components.
        seed: seed of the draws, together with the class.
        classes: the B class numbers.
        init: ``random`` (|N(0, 1)| sqrt(mean(F) / k) as in DFF: edocollins/DFF, ``nmf.py``) or ``nndsvd`` (Boutsidis
            and Gallopoulos 2008).
        fill: whether the mean of F replaces the zeros of NNDSVD (NNDSVDa of the same paper).

    Returns:
        ``E^T (B, k, M)`` and ``P (B, k, D)``.
    """
    mean = F.sum((1, 2)) / (rows.to(F.device) * F.shape[2])
    Et, P = random(F, rows, k, seed, classes) if init == "random" else nndsvd(F, rows, k, seed, classes)
    if init == "random":
        # The product of two such factors has about the mean of F.
        scale = (mean / k).sqrt()[:, None, None]
        return Et * scale, P * scale
    if fill:
        # A multiplicative update cannot leave zero.
        Et = torch.where((Et == 0) & valid_rows(F, rows)[:, None], mean[:, None, None], Et)
        P = torch.where(P == 0, mean[:, None, None], P)
    return Et, P


def valid_rows(F: Tensor, rows: Tensor) -> Tensor:
    """Return which of the M rows are no padding: bool ``(B, M)``."""
    return torch.arange(F.shape[1], device=F.device) < rows.to(F.device)[:, None]


def random(F: Tensor, rows: Tensor, k: int, seed: int, classes: list[int]) -> tuple[Tensor, Tensor]:
    """Draw |N(0, 1)| for ``E^T (B, k, M)``, zero beyond a class's valid rows, and for ``P (B, k, D)``."""
    B, M, D = F.shape
    Et, P = torch.zeros(B, k, M), torch.empty(B, k, D)
    for b, (label, n) in enumerate(zip(classes, rows.tolist(), strict=True)):
        # Drawn on the CPU and per class: the start depends on neither the device nor the other classes.
        generator = torch.Generator().manual_seed(derive(seed, "nmf", label))
        Et[b, :, :n] = torch.randn(n, k, generator=generator).abs().T
        P[b] = torch.randn(k, D, generator=generator).abs()
    return Et.to(F), P.to(F)


def nndsvd(F: Tensor, rows: Tensor, k: int, seed: int, classes: list[int]) -> tuple[Tensor, Tensor]:
    """Compute non-negative halves of the k leading singular pairs (Boutsidis and Gallopoulos 2008, algorithm 1).

    Of each pair ``s u v`` these are the halves ``(u+, v+)`` or ``(u-, v-)`` with the larger product.

    Returns:
        ``E^T (B, k, M)`` and ``P (B, k, D)``.
    """
    U, s, V = _leading(F, k, seed, classes)
    above, below = (U.clamp(min=0), V.clamp(min=0)), ((-U).clamp(min=0), (-V).clamp(min=0))
    sizes = [left.norm(dim=2) * right.norm(dim=2) for left, right in (above, below)]
    upper = sizes[0] >= sizes[1]
    left, right = (torch.where(upper[:, :, None], a, b) for a, b in zip(above, below, strict=True))
    # Singular values that are rounding errors (k above the rank) have noise as directions: such components are zero.
    s = torch.where(s > 1e-6 * s[:, :1], s, 0.0)
    weight = (s * torch.where(upper, *sizes)).sqrt()[:, :, None]
    unit = [weight * x / x.norm(dim=2, keepdim=True).clamp(min=1e-30) for x in (left, right)]
    unit[0] = unit[0] * valid_rows(F, rows)[:, None]
    # Contiguous: products with strided factors take five times as long, and updates keep the strides.
    return unit[0].contiguous(), unit[1].contiguous()


def _leading(F: Tensor, k: int, seed: int, classes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the k largest singular triplets: vectors ``(B, k, M)``, values ``(B, k)``, vectors ``(B, k, D)``."""
    # Subspace iteration (Halko et al. 2011, algorithm 4.4): a full SVD would take longer than the factorisation.
    D = F.shape[2]
    width = min(k + _OVERSAMPLING, *F.shape[1:])
    sketch = torch.stack(
        [
            torch.randn(width, D, generator=torch.Generator().manual_seed(derive(seed, "nndsvd", label)))
            for label in classes
        ]
    ).to(F)
    for _ in range(_POWER_ITERATIONS):
        Q = _orthonormal((sketch @ F.mT).mT)
        sketch = _orthonormal((Q.mT @ F).mT).mT
    Q = _orthonormal((sketch @ F.mT).mT)  # (B, M, width)
    small = Q.mT @ F
    square, rotation = torch.linalg.eigh(small.double() @ small.double().mT)
    square, rotation = square.flip(1).clamp(min=0), rotation.flip(2).to(F.dtype)  # largest first
    s = square.sqrt().to(F.dtype)
    U, V = (Q @ rotation)[:, :, :k].mT, (rotation.mT @ small)[:, :k]
    V = V / V.norm(dim=2, keepdim=True).clamp(min=1e-30)
    s = s[:, :k]
    missing = k - s.shape[1]
    if missing:
        pad = torch.nn.functional.pad
        U, V, s = pad(U, (0, 0, 0, missing)), pad(V, (0, 0, 0, missing)), pad(s, (0, missing))
    return U, s, V


def _orthonormal(Y: Tensor) -> Tensor:
    """Compute an orthonormal basis of the columns of ``Y (B, n, w)``, with zero columns beyond its rank."""
    # By the w x w Gram matrix and not by QR, which a GPU computes one matrix after another.
    wide = Y.double()
    square, rotation = torch.linalg.eigh(wide.mT @ wide)
    present = square > 1e-12 * square.amax(1, keepdim=True)
    shrink = torch.where(present, torch.where(present, square, 1.0).rsqrt(), 0.0)
    return (wide @ (rotation * shrink[:, None])).to(Y.dtype)


def clusters(F: Tensor, rows: Tensor, k: int, seed: int, classes: list[int]) -> Tensor:
    """Assign each valid row to one of k clusters by Lloyd's algorithm from k of the rows: 0 or 1, ``(B, k, M)``."""
    centres = torch.empty(len(F), k, F.shape[2], device=F.device, dtype=F.dtype)
    for b, (label, count) in enumerate(zip(classes, rows.tolist(), strict=True)):
        generator = torch.Generator().manual_seed(derive(seed, "clusters", label))
        chosen = torch.randperm(count, generator=generator)[:k]
        # With fewer rows than clusters, rows are used more than once.
        centres[b] = F[b, to_device(chosen.repeat(-(-k // len(chosen)))[:k], F.device)]
    valid = valid_rows(F, rows)
    for _ in range(_LLOYD_ITERATIONS):
        distance = centres.square().sum(2)[:, :, None] - 2 * centres @ F.mT  # up to |f|^2, the same for all centres
        members = torch.nn.functional.one_hot(distance.argmin(1), k).mT.to(F.dtype) * valid[:, None]
        count = members.sum(2, keepdim=True)
        # The centre of an empty cluster does not move.
        centres = torch.where(count > 0, members @ F / count.clamp(min=1), centres)
    return members
