"""Distribution of the residual parameters over the prototypes (equations 4 to 7 of the paper)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from bench.posthoc.solvers.lbfgs import minimise

Norm = Literal["l2", "minmax", "zscore"]
Over = Literal["class", "image"]
Start = Literal["equal", "naive", "prototype"]
Solver = Literal["none", "naive", "nelder-mead", "lbfgs"]
Space = Literal["full", "span"]
Objective = Callable[[Tensor], Tensor]


class Alignment:
    """Objective of equation 6 for B classes: ``sum_i |Norm(F p_i) - Norm(F r_i)|^2``.

    The paper does not define Norm. Here ``l2`` divides by the Euclidean norm, ``minmax`` maps to [0, 1], ``zscore``
    subtracts the mean and divides by the standard deviation; over all n HW locations of a class or image by image.

    Args:
        F: features ``(B, M, D)``, M = images x locations, zero beyond a class's valid rows.
        rows: number of valid rows per class ``(B,)``.
        P: initial prototypes ``(B, k, D)``.
        locations: HW, locations of a feature map.
        norm: Norm.
        over: rows over which Norm is taken, of a ``class`` or of an ``image``.
    """

    def __init__(self, F: Tensor, rows: Tensor, P: Tensor, locations: int, norm: Norm = "l2", over: Over = "class"):
        self.F, self.locations, self.norm, self.over = F, locations, norm, over
        self.rows = rows.to(F.device)
        self.valid = (torch.arange(F.shape[1], device=F.device) < self.rows[:, None])[:, :, None]
        self.target = self._normalised(F @ P.mT)

    def __call__(self, r: Tensor) -> Tensor:
        """Compute the objective ``(B,)`` of residual parts ``(B, k, D)``."""
        return (self.target - self._normalised(self.F @ r.mT)).square().sum((1, 2))

    def within(self, basis: Tensor | None = None) -> Objective:
        """Return the objective as a function of coefficients ``c (B, k, m)`` with ``r = c basis``.

        Args:
            basis: basis ``(B, m, D)``; ``None``: the D unit vectors, so that ``c`` is ``r`` itself.
        """
        # `l2` and `zscore` over a class are inner-product norms: they need the Gram matrix of the basis' maps, not F.
        gram = self.norm != "minmax" and self.over == "class"
        if basis is None:
            # G is D x D and read once for value and gradient; F is M x D and read for each.
            if not gram or self.F.shape[2] > 2 * self.F.shape[1]:
                return self
            maps = self.F
        else:
            maps = self.maps(basis)
            if not gram:
                return lambda c: (self.target - self._normalised(maps @ c.mT)).square().sum((1, 2))
        G = maps.mT @ maps
        squared = 1.0
        if self.norm == "zscore":
            total, n = maps.sum(1), self.rows.to(maps)[:, None]
            G = G - total[:, :, None] * (total / n)[:, None]
            squared = n  # |Norm(x)|^2 = n: the population's standard deviation
        # Norm(F p_i) has mean zero under z-score, so that the maps need no centring here.
        target = self.target.to(maps.dtype)
        cross, height = target.mT @ maps, target.square().sum(1)

        def objective(c: Tensor) -> Tensor:
            # |t|^2 + |u|^2 - 2 t u with u = Norm(F r). Value and gradient of c G c^T come from one product: the
            # gradient is 2 c G, which the second line has and autograd would compute a second time.
            half = (c.detach() @ G).detach()
            square = (half * (2 * c - c.detach())).sum(2)
            alive = square > 0
            length = torch.where(alive, square, 1.0).sqrt()
            u = torch.where(alive, squared, 0.0)
            dot = (cross * c).sum(2) * (u.sqrt() / length)
            return (height + u - 2 * dot).sum(1)

        return objective

    def maps(self, basis: Tensor) -> Tensor:
        """Compute ``F basis^T (B, M, m)`` in the precision of the features, and return it in that of the basis."""
        return (self.F @ basis.to(self.F.dtype).mT).to(basis.dtype)

    def _normalised(self, maps: Tensor) -> Tensor:
        valid, shape = self.valid, maps.shape
        if self.over == "image":
            maps, valid = (t.unflatten(1, (-1, self.locations)) for t in (maps, valid))
            dim = 2
        else:
            dim = 1
        if self.norm == "minmax":
            low = maps.masked_fill(~valid, torch.inf).amin(dim, keepdim=True)
            high = maps.masked_fill(~valid, -torch.inf).amax(dim, keepdim=True)
            span = high - low
            maps = torch.where(valid & (span > 0), (maps - low) / torch.where(span > 0, span, 1.0), 0.0)
            return maps.reshape(shape)
        count = 1
        if self.norm == "zscore":
            count = valid.sum(dim, keepdim=True).clamp(min=1)
            maps = torch.where(valid, maps - maps.sum(dim, keepdim=True) / count, 0.0)
        # The masked square root keeps the gradient of an all-zero map at zero instead of NaN.
        square = maps.square().sum(dim, keepdim=True) / count
        return (maps / torch.where(square > 0, square, 1.0).sqrt()).reshape(shape)


def naive(R: Tensor, alpha: Tensor) -> Tensor:
    """Split the residual by alpha, ``r_i = alpha_i R / sum(alpha)``: ``(B, D), (B, k) -> (B, k, D)``.

    Example:
        >>> naive(torch.tensor([[2.0, 4.0]]), torch.tensor([[1.0, 3.0]]))
        tensor([[[0.5000, 1.0000],
                 [1.5000, 3.0000]]])
    """
    return shares(alpha)[:, :, None] * R[:, None]


def shares(alpha: Tensor) -> Tensor:
    """Compute ``alpha_i / sum(alpha)``, ``(B, k)``; ``1 / k`` if the coefficients cancel."""
    # If |sum| is under a thousandth of the absolute sum, the quotients would explode.
    total = alpha.sum(1, keepdim=True)
    cancels = total.abs() <= 1e-3 * alpha.abs().sum(1, keepdim=True)
    return torch.where(cancels, 1.0 / alpha.shape[1], alpha / torch.where(cancels, 1.0, total))


def distribute(
    R: Tensor,
    alpha: Tensor,
    P: Tensor,
    objective: Alignment | Objective,
    solver: Solver,
    start: Start,
    space: Space = "full",
) -> Tensor:
    """Distribute the residual of B classes over their prototypes (equations 5 and 6).

    With the search space ``span`` every part is a combination of the prototypes and R. It contains all three starting
    points, and if every map correlates with its target, leaving it can only raise the objective (l2, z-score): a
    component outside adds to the length of F r_i and nothing to its product with F p_i.

    Args:
        R: residual parameters ``(B, D)``, float64.
        alpha: coefficients ``(B, k)``, float64.
        P: initial prototypes ``(B, k, D)``.
        objective: equation 6, ``(B, k, D) -> (B,)``.
        solver: ``none`` (zeros, which do not sum to R), ``naive`` (the split by alpha), ``nelder-mead`` (paper:
            tolerance 1e-6, 100 iterations) or ``lbfgs`` (by gradients).
        start: starting point: ``equal`` (R/k), ``naive`` (the split by alpha) or ``prototype`` (the prototypes).
        space: search space: ``full`` (all (k-1) D numbers, as in the paper) or ``span`` ((k-1)(k+1) numbers).

    Returns:
        Parts ``r (B, k, D)``, float64, that sum to R; the last one takes up the rest.
    """
    k = P.shape[1]
    if solver == "none":
        return torch.zeros_like(P, dtype=R.dtype)
    if solver == "naive" or k == 1:
        return naive(R, alpha)
    # Parts are coefficients on a basis; in the full space the basis is that of the D channels.
    dtype = R.dtype if space == "span" else P.dtype
    if space == "span":
        basis, length = _unit(torch.cat([P.to(R.dtype), R[:, None]], dim=1), objective)
        whole_R = torch.nn.functional.pad(length[:, -1:], (k, 0))
        prototypes = torch.diag_embed(length)[:, :k]
    else:
        basis, whole_R, prototypes = None, R, P.to(R.dtype)
    begin = {
        "equal": lambda: (whole_R / k)[:, None].expand(-1, k, -1),
        "naive": lambda: naive(whole_R, alpha),
        "prototype": lambda: prototypes,
    }[start]()
    free = begin[:, :-1].to(dtype).flatten(1)
    total = whole_R.to(dtype)

    def whole(x: Tensor) -> Tensor:
        parts = x.unflatten(1, (k - 1, -1))
        # Only k - 1 parts are free; the last is the rest of R (paper, appendix C).
        return torch.cat([parts, (total - parts.sum(1))[:, None]], dim=1)

    if isinstance(objective, Alignment):
        equation_6 = objective.within(basis)
    elif basis is None:
        equation_6 = objective
    else:
        equation_6 = lambda c: objective((c @ basis).to(P.dtype))  # noqa: E731
    search = minimise if solver == "lbfgs" else _nelder_mead
    parts = search(lambda x: equation_6(whole(x)), free).to(R.dtype).unflatten(1, (k - 1, -1))
    if basis is not None:
        parts = parts @ basis
    return torch.cat([parts, (R - parts.sum(1))[:, None]], dim=1)


def _unit(basis: Tensor, objective: Alignment | Objective) -> tuple[Tensor, Tensor]:
    """Scale a basis ``(B, m, D)`` to maps of length one; also return the lengths before ``(B, m)``."""
    # Evenly scaled unknowns: L-BFGS begins with a multiple of the identity as its inverse Hessian.
    maps = objective.maps(basis) if isinstance(objective, Alignment) else basis.mT
    length = maps.norm(dim=1)
    length = torch.where(length > 0, length, 1.0)
    return basis / length[:, :, None], length


def _nelder_mead(objective: Objective, start: Tensor) -> Tensor:
    from scipy.optimize import minimize

    minimisers = start.clone()
    for b in range(len(start)):

        def of_class(x: object, b: int = b) -> float:
            trial = start.clone()
            trial[b] = torch.as_tensor(x, dtype=start.dtype)
            return float(objective(trial)[b])

        result = minimize(
            of_class, start[b].double().cpu().numpy(), method="Nelder-Mead", tol=1e-6, options={"maxiter": 100}
        )
        minimisers[b] = torch.as_tensor(result.x, dtype=start.dtype)
    return minimisers
