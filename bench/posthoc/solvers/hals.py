"""Hierarchical alternating least squares (HALS): exact updates of one row of a factor at a time."""

from __future__ import annotations

import torch
from torch import Tensor

# Inner sweeps per product with F: they cost little (k x k against M x D) and save products.
INNER = 2

# Relative size of a diagonal element below which a component counts as dead.
_DEAD = 1e-12


def sweep(F: Tensor, Et: Tensor, P: Tensor, inner: int = INNER) -> tuple[Tensor, Tensor]:
    """Update E and then P for ``F ~ E P`` of B classes (Cichocki and Phan 2009).

    Each of the two products with F serves several sweeps over the k rows (accelerated HALS: Gillis and Glineur 2012,
    algorithm 2, with a fixed number of inner sweeps).

    Args:
        F: features ``(B, M, D)``.
        Et: E transposed, ``(B, k, M)``, so that a component is a contiguous row in both factors.
        P: factor ``(B, k, D)``.
        inner: inner sweeps per product.

    Returns:
        The updated ``Et`` and ``P``.
    """
    Et = descend(P @ F.mT, P @ P.mT, Et, inner)
    P = descend(Et @ F, Et @ Et.mT, P, inner)
    return Et, P


def descend(A: Tensor, G: Tensor, X: Tensor, sweeps: int) -> Tensor:
    """Minimise ``tr(X^T G X) / 2 - tr(A^T X)`` over ``X >= 0`` for B problems by cyclic coordinate descent.

    Row j of X becomes ``max(0, A_j - sum_l!=j G_jl X_l) / G_jj``, the exact minimiser with the other rows fixed.

    Args:
        A: products of F and the other factor ``(B, k, N)``.
        G: Gram matrix of the other factor ``(B, k, k)``.
        X: starting point ``(B, k, N)``, non-negative.
        sweeps: updates of every row.

    Returns:
        The last X ``(B, k, N)``.
    """
    diagonal = G.diagonal(dim1=1, dim2=2)
    # A component whose row of the other factor is zero (also if k is above the rank) has no equation: it stays.
    alive = diagonal > _DEAD * diagonal.amax(1, keepdim=True)
    weight = torch.where(alive, 1 / torch.where(alive, diagonal, 1.0), 0.0)[:, :, None]
    # With the diagonal of H zero, a row of A + H X is the whole update; a dead row of A is 0 and of H the identity.
    A, H = A * weight, -G * weight
    H.diagonal(dim1=1, dim2=2).copy_(torch.where(alive, 0.0, 1.0))
    X = X.clone(memory_format=torch.contiguous_format)
    for _ in range(sweeps):
        for j in range(X.shape[1]):
            torch.clamp(torch.baddbmm(A[:, j : j + 1], H[:, j : j + 1], X), min=0, out=X[:, j : j + 1])
    return X
