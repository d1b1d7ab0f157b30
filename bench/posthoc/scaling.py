"""Scaling the prototypes towards the classifier's row (equation 3 of the paper)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Solver = Literal["closed", "cvxpy"]


def scale(v: Tensor, P: Tensor, solver: Solver = "closed") -> Tensor:
    """``alpha (B, k)`` minimising ``|v - sum_i alpha_i p_i|^2`` for each of B classes; float64.

    Where prototypes are linearly dependent the minimiser of least norm is taken.

    Args:
        v: rows of the classifier ``(B, D)``.
        P: prototypes ``(B, k, D)``.
        solver: ``closed`` (pseudo-inverse) or ``cvxpy`` (as in the paper, class by class).
    """
    v, P = v.double(), P.double()
    if solver == "closed":
        return (v[:, None] @ torch.linalg.pinv(P))[:, 0]
    import cvxpy

    alphas = []
    for row, prototypes in zip(v.cpu().numpy(), P.cpu().numpy(), strict=True):
        alpha = cvxpy.Variable(len(prototypes))
        cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(row - prototypes.T @ alpha))).solve()
        alphas.append(torch.from_numpy(alpha.value))
    return torch.stack(alphas).to(v)
