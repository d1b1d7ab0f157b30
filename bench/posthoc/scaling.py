"""Scaling the prototypes towards the classifier's row (equation 3 of the paper)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from bench.contract import RequestError

Solver = Literal["closed", "cvxpy", "nonnegative"]

_MOST_ENUMERATED = 10
_ELEMENTS = 2**22


def scale(v: Tensor, P: Tensor, solver: Solver = "closed") -> Tensor:
    """``alpha (B, k)`` minimising ``|v - sum_i alpha_i p_i|^2`` for each of B classes; float64.

    Where prototypes are linearly dependent, ``closed`` takes the minimiser of least norm.

    Args:
        v: rows of the classifier ``(B, D)``.
        P: prototypes ``(B, k, D)``.
        solver: ``closed`` (pseudo-inverse), ``cvxpy`` (as in the paper, class by class), or ``nonnegative``: the
            minimiser among ``alpha >= 0``, which the paper does not ask for.
    """
    v, P = v.double(), P.double()
    if solver == "closed":
        # On the CPU wherever P is: it is small, and a GPU would go through the singular values class by class.
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
    """Non-negative least squares, exact: the best of the 2^k sets of prototypes that may be in use.

    The minimiser solves the plain least squares on its own support, and among the minimisers there is one whose
    support is linearly independent. So every support is solved, and of the solutions without a negative coefficient
    the one with the smallest objective is taken. Above k = 10 SciPy's active set goes class by class.

    Args:
        v: rows of the classifier ``(B, D)``, float64.
        P: prototypes ``(B, k, D)``, float64.
    """
    B, k = P.shape[:2]
    if k > _MOST_ENUMERATED:
        from scipy.optimize import nnls

        pairs = zip(v.cpu().numpy(), P.cpu().numpy(), strict=True)
        return torch.stack([torch.from_numpy(nnls(prototypes.T, row)[0]) for row, prototypes in pairs]).to(v)
    length = P.norm(dim=2)
    length = torch.where(length > 0, length, 1.0)
    unit = P / length[:, :, None]
    G, c = unit @ unit.mT, (unit @ v[:, :, None])[:, :, 0]
    best, lowest = torch.zeros_like(c), torch.zeros(B, dtype=c.dtype, device=c.device)  # no prototype: the objective 0
    supports = (torch.arange(2**k, device=c.device)[:, None] >> torch.arange(k, device=c.device)) & 1
    for some in supports.to(c.dtype).split(max(1, _ELEMENTS // (B * k * k))):
        # Rows and columns outside the support become those of the identity: their coefficients are zero.
        inside = some[:, :, None] * some[:, None]
        system = G[:, None] * inside + torch.diag_embed(1 - some)
        alpha, info = torch.linalg.solve_ex(system, (c[:, None] * some)[:, :, :, None])
        alpha = alpha[:, :, :, 0]
        # |v - alpha P|^2 up to |v|^2, from the coefficients themselves: an ill-conditioned support cannot cheat.
        height = ((alpha @ G) * alpha).sum(2) - 2 * (alpha * c[:, None]).sum(2)
        usable = (info == 0) & (alpha >= 0).all(2) & torch.isfinite(height)
        height = torch.where(usable, height, torch.inf)
        value, where = height.min(1)
        better = value < lowest
        best = torch.where(better[:, None], alpha[torch.arange(B, device=c.device), where], best)
        lowest = torch.where(better, value, lowest)
    return best / length
