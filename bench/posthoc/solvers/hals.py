"""Hierarchical alternating least squares: one row of a factor at a time, each solved exactly."""

from __future__ import annotations

import torch
from torch import Tensor

INNER = 2
"""Inner sweeps per product with F. They cost next to nothing (k x k against M x D) and save products."""

_DEAD = 1e-12


def sweep(F: Tensor, Et: Tensor, P: Tensor, inner: int = INNER) -> tuple[Tensor, Tensor]:
    """One update of E and then P for ``F ~ E P`` of B classes (Cichocki and Phan 2009).

    F is read twice, once for each product; each product then serves ``inner`` sweeps over the k rows (accelerated
    HALS, Gillis and Glineur 2012, algorithm 2 with a fixed number of inner sweeps).

    Args:
        F: features ``(B, M, D)``.
        Et: E transposed, ``(B, k, M)``, so that a component is a contiguous row in both factors.
        P: ``(B, k, D)``.
        inner: see above.
    """
    Et = descend(P @ F.mT, P @ P.mT, Et, inner)
    P = descend(Et @ F, Et @ Et.mT, P, inner)
    return Et, P


def descend(A: Tensor, G: Tensor, X: Tensor, sweeps: int) -> Tensor:
    """Cyclic coordinate descent on ``min_X>=0 tr(X^T G X) / 2 - tr(A^T X)`` for B problems.

    Row j of X becomes ``max(0, A_j - sum_l!=j G_jl X_l) / G_jj``, the exact minimiser with the other rows fixed.

    Args:
        A: ``(B, k, N)``.
        G: Gram matrix of the other factor ``(B, k, k)``.
        X: where to begin ``(B, k, N)``, non-negative.
        sweeps: how often every row is visited.
    """
    diagonal = G.diagonal(dim1=1, dim2=2)
    # A component whose other half has died (or never lived, k above the rank) has no equation: it stays as it is.
    alive = diagonal > _DEAD * diagonal.amax(1, keepdim=True)
    weight = torch.where(alive, 1 / torch.where(alive, diagonal, 1.0), 0.0)[:, :, None]
    A, H = A * weight, -G * weight
    H.diagonal(dim1=1, dim2=2).copy_(torch.where(alive, 0.0, 1.0))
    X = X.clone(memory_format=torch.contiguous_format)
    for _ in range(sweeps):
        for j in range(X.shape[1]):
            torch.clamp(torch.baddbmm(A[:, j : j + 1], H[:, j : j + 1], X), min=0, out=X[:, j : j + 1])
    return X
