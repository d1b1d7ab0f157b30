"""Scaling of the prototypes towards the classifier's row (equation 3 of the paper)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from bench.contract import RequestError

Solver = Literal["closed", "cvxpy", "nonnegative"]

# Largest k for which all 2^k supports are solved.
_MOST_ENUMERATED = 10

# Numbers that the systems of a block of supports may have together.
_ELEMENTS = 2**22


def scale(v: Tensor, P: Tensor, solver: Solver = "closed") -> Tensor:
    """Minimise ``|v - sum_i alpha_i p_i|^2`` for each of B classes.

    Args:
        v: rows of the classifier ``(B, D)``.
        P: prototypes ``(B, k, D)``.
        solver: ``closed`` (pseudo-inverse; of linearly dependent prototypes the minimiser of least norm), ``cvxpy`` (as
            in the paper, class by class), or ``nonnegative`` (among ``alpha >= 0``, not in the paper).

    Returns:
        Coefficients ``alpha (B, k)``, float64.

    Example:
        Of orthogonal prototypes each coefficient is ``v p / |p|^2``.

        >>> v, P = torch.tensor([[3.0, 5.0, 4.0]]), torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]]])
        >>> scale(v, P).round(decimals=6)
        tensor([[4., 2.]], dtype=torch.float64)
    """
    v, P = v.double(), P.double()
    if solver == "closed":
        # Always on the CPU: P is small, and a GPU would compute the singular values class by class.
        return (v[:, None] @ torch.linalg.pinv(P.cpu()).to(v.device))[:, 0]
    if solver == "nonnegative":
        return nonnegative(v, P)
    require_cvxpy()
    import cvxpy

    alphas = []
    for row, prototypes in zip(v.cpu().numpy(), P.cpu().numpy(), strict=True):
        alpha = cvxpy.Variable(len(prototypes))
        cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(row - prototypes.T @ alpha))).solve()
        alphas.append(torch.from_numpy(alpha.value))
    return torch.stack(alphas).to(v)


def require_cvxpy() -> None:
    """Refuse the quadratic program of the paper if its package is missing.

    Raises:
        RequestError: naming the package and what computes the same without it.
    """
    if find_spec("cvxpy") is None:
        raise RequestError(
            "cvxpy is not installed: pip install 'cvxpy>=1.6'; scaling=closed gives the same numbers without it"
        )


def nonnegative(v: Tensor, P: Tensor) -> Tensor:
    """Solve non-negative least squares exactly, by the best of the 2^k supports; above k = 10 by SciPy's active set.

    Args:
        v: rows of the classifier ``(B, D)``, float64.
        P: prototypes ``(B, k, D)``, float64.

    Returns:
        Coefficients ``alpha (B, k)``, float64.
    """
    # A minimiser solves the plain least squares on its support, and one of the minimisers has a linearly independent
    # support. So every support is solved, and of the solutions without a negative coefficient the best is taken.
    B, k = P.shape[:2]
    if k > _MOST_ENUMERATED:
        from scipy.optimize import nnls

        pairs = zip(v.cpu().numpy(), P.cpu().numpy(), strict=True)
        return torch.stack([torch.from_numpy(nnls(prototypes.T, row)[0]) for row, prototypes in pairs]).to(v)
    length = P.norm(dim=2)
    length = torch.where(length > 0, length, 1.0)
    unit = P / length[:, :, None]
    G, c = unit @ unit.mT, (unit @ v[:, :, None])[:, :, 0]
    best, lowest = torch.zeros_like(c), torch.zeros(B, dtype=c.dtype, device=c.device)  # empty support: objective 0
    supports = (torch.arange(2**k, device=c.device)[:, None] >> torch.arange(k, device=c.device)) & 1
    for block in supports.to(c.dtype).split(max(1, _ELEMENTS // (B * k * k))):
        # Rows and columns outside the support become those of the identity: their coefficients are zero.
        inside = block[:, :, None] * block[:, None]
        system = G[:, None] * inside + torch.diag_embed(1 - block)
        alpha, info = torch.linalg.solve_ex(system, (c[:, None] * block)[:, :, :, None])
        alpha = alpha[:, :, :, 0]
        # |v - alpha P|^2 up to |v|^2, from the coefficients themselves: right also if an ill-conditioned system is not
        # solved exactly.
        height = ((alpha @ G) * alpha).sum(2) - 2 * (alpha * c[:, None]).sum(2)
        usable = (info == 0) & (alpha >= 0).all(2) & torch.isfinite(height)
        height = torch.where(usable, height, torch.inf)
        value, index = height.min(1)
        better = value < lowest
        best = torch.where(better[:, None], alpha[torch.arange(B, device=c.device), index], best)
        lowest = torch.where(better, value, lowest)
    return best / length
