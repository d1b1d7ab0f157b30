"""Distributing the residual parameters over the prototypes (equations 4 to 7 of the paper)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bench.posthoc.lbfgs import minimise

Norm = Literal["l2", "minmax"]
Over = Literal["class", "image"]
Start = Literal["equal", "naive", "prototype"]
Solver = Literal["naive", "nelder-mead", "lbfgs"]


class Alignment:
    """The objective of equation 6 for B classes.

    ``sum_i |Norm(F p_i) - Norm(F r_i)|^2``, where the paper leaves Norm open (spec/baselines.md, 15.2): ``l2``
    divides by the Euclidean norm, ``minmax`` maps to [0, 1]; over all n HW cells of a class or image by image.

    Args:
        F: features ``(B, M, D)``, M = images x cells; rows beyond a class's own are zero.
        rows: own rows per class ``(B,)``.
        P: initial prototypes ``(B, k, D)``.
        cells: HW.
        norm: see above.
        over: see above.
    """

    def __init__(self, F: Tensor, rows: Tensor, P: Tensor, cells: int, norm: Norm = "l2", over: Over = "class"):
        self.F, self.cells, self.norm, self.over = F, cells, norm, over
        self.own = (torch.arange(F.shape[1], device=F.device) < rows[:, None])[:, :, None]
        self.target = self._normalised(F @ P.mT)

    def __call__(self, r: Tensor) -> Tensor:
        """Residual parts ``(B, k, D)`` -> objective ``(B,)``."""
        return (self.target - self._normalised(self.F @ r.mT)).square().sum((1, 2))

    def _normalised(self, maps: Tensor) -> Tensor:
        own, shape = self.own, maps.shape
        if self.over == "image":
            maps, own = (t.unflatten(1, (-1, self.cells)) for t in (maps, own))
            dim = 2
        else:
            dim = 1
        if self.norm == "l2":
            # The masked square root keeps the gradient of an all-zero map at zero instead of NaN.
            square = maps.square().sum(dim, keepdim=True)
            maps = maps / torch.where(square > 0, square, 1.0).sqrt()
        else:
            low = maps.masked_fill(~own, torch.inf).amin(dim, keepdim=True)
            high = maps.masked_fill(~own, -torch.inf).amax(dim, keepdim=True)
            span = high - low
            maps = torch.where(own & (span > 0), (maps - low) / torch.where(span > 0, span, 1.0), 0.0)
        return maps.reshape(shape)


def naive(R: Tensor, alpha: Tensor) -> Tensor:
    """``r_i = alpha_i R / sum(alpha)``: ``(B, D), (B, k) -> (B, k, D)``.

    Where the coefficients cancel (|sum| under a thousandth of their absolute sum) the shares would explode; there
    the residual is split evenly.
    """
    total = alpha.sum(1, keepdim=True)
    cancels = total.abs() <= 1e-3 * alpha.abs().sum(1, keepdim=True)
    share = torch.where(cancels, 1.0 / alpha.shape[1], alpha / torch.where(cancels, 1.0, total))
    return share[:, :, None] * R[:, None]


def distribute(
    R: Tensor, alpha: Tensor, P: Tensor, objective: Callable[[Tensor], Tensor], solver: Solver, start: Start
) -> Tensor:
    """Parts ``r (B, k, D)`` of the residual ``R (B, D)``, float64, summing to it (the last takes up the rest).

    Args:
        R: residual parameters, float64.
        alpha: coefficients ``(B, k)``, float64.
        P: initial prototypes ``(B, k, D)``.
        objective: equation 6, ``(B, k, D) -> (B,)``.
        solver: ``naive`` (the split by alpha), ``nelder-mead`` (as in the paper: tolerance 1e-6, 100 iterations) or
            ``lbfgs`` (gradients, the sum built in).
        start: where the search begins: R/k, the naive split, or the prototypes themselves.
    """
    k, D = P.shape[1:]
    if solver == "naive" or k == 1:
        return naive(R, alpha)
    begin = {
        "equal": lambda: (R / k)[:, None].expand(-1, k, -1),
        "naive": lambda: naive(R, alpha),
        "prototype": lambda: P.double(),
    }[start]()
    free = begin[:, :-1].to(P.dtype).flatten(1)

    def whole(x: Tensor) -> Tensor:
        parts = x.unflatten(1, (k - 1, D))
        # Only k - 1 parts are free; the last is what is left of R (paper, appendix C).
        return torch.cat([parts, (R.to(x.dtype) - parts.sum(1))[:, None]], dim=1)

    if solver == "lbfgs":
        found = minimise(lambda x: objective(whole(x)), free)
    else:
        found = _nelder_mead(lambda x: objective(whole(x)), free)
    parts = found.double().unflatten(1, (k - 1, D))
    return torch.cat([parts, (R - parts.sum(1))[:, None]], dim=1)


def _nelder_mead(objective: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    from scipy.optimize import minimize

    found = start.clone()
    for b in range(len(start)):

        def one(x: object, b: int = b) -> float:
            trial = start.clone()
            trial[b] = torch.as_tensor(x, dtype=start.dtype)
            return float(objective(trial)[b])

        result = minimize(
            one, start[b].double().cpu().numpy(), method="Nelder-Mead", tol=1e-6, options={"maxiter": 100}
        )
        found[b] = torch.as_tensor(result.x, dtype=start.dtype)
    return found
