"""L-BFGS for a batch of small independent problems."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Correction = tuple[Tensor, Tensor, Tensor, Tensor]
# Required part of the decrease that the slope predicts (Nocedal and Wright, equation 3.4).
_ARMIJO = 1e-4

# A problem that does not decrease by a step of this length has ended.
_SMALLEST_STEP = 1e-6


def minimise(
    objective: Callable[[Tensor], Tensor], start: Tensor, *, max_iter: int = 100, memory: int = 10, tol: float = 1e-6
) -> Tensor:
    """Minimise B independent problems.

    Each problem has a separate direction, step length (backtracking until Armijo's condition holds) and end (a
    relative decrease below ``tol``, or no step that decreases). A problem never ends above its start.

    Args:
        objective: function ``(B, n) -> (B,)``, differentiable, each row independent of the others.
        start: starting points ``(B, n)``.
        max_iter: maximum number of iterations.
        memory: number of stored corrections.
        tol: relative decrease below which a problem ends.

    Returns:
        The minimisers ``(B, n)``.

    Example:
        >>> minimise(lambda x: (x - 3).square().sum(1), torch.zeros(2, 1))
        tensor([[3.],
                [3.]])
    """
    x = start.detach().clone()
    f, g = _value_and_gradient(objective, x)
    corrections: list[Correction] = []
    active = torch.isfinite(f)
    for _ in range(max_iter):
        d = -_inverse_hessian_times(g, x, corrections)
        slope = (d * g).sum(1)
        # A direction that does not descend (curvature lost to rounding) is replaced by the steepest one.
        uphill = slope >= 0
        d = torch.where(uphill[:, None], -g * _first_scale(x, g), d)
        slope = (d * g).sum(1)
        # One length for all: each problem that still searches has halved its step as often as the others.
        t, searching, moved, new_f = 1.0, active, x, f
        # The first trial also computes the gradient: nearly always it is accepted.
        trial = x + d
        trial_f, trial_g = _value_and_gradient(objective, trial)
        while True:
            good = searching & (trial_f <= f + _ARMIJO * t * slope)
            moved, new_f = torch.where(good[:, None], trial, moved), torch.where(good, trial_f, new_f)
            searching = searching & ~good
            if t == 1:
                going_on = active & ~searching & ((f - new_f) > tol * f.abs())
                # One look for both: whether any problem searches on, and else whether any goes on after this iteration.
                search_on, go_on = torch.stack([searching.any(), going_on.any()]).tolist()
            else:
                search_on = bool(searching.any())
            if not search_on or t <= _SMALLEST_STEP:
                break
            t /= 2
            trial = x + t * d
            with torch.no_grad():
                trial_f = objective(trial)
        accepted = active & ~searching
        if t < 1:
            trial_g = _value_and_gradient(objective, moved)[1]
            going_on = accepted & ((f - new_f) > tol * f.abs())
            go_on = bool(going_on.any())
        new_g = torch.where(accepted[:, None], trial_g, g)
        # A problem that accepted no step has not moved.
        corrections = [*corrections, _correction(moved - x, new_g - g)][-memory:]
        active, x, f, g = going_on, moved, new_f, new_g
        if not go_on:
            break
    return x


def _value_and_gradient(objective: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        f = objective(x)
        (g,) = torch.autograd.grad(f.sum(), x)
    return f.detach(), g


def _first_scale(x: Tensor, g: Tensor) -> Tensor:
    # A first step of a tenth of the length of x: the objectives here (equation 6) do not change when x is scaled.
    length = x.norm(dim=1, keepdim=True)
    return 0.1 * torch.where(length > 0, length, 1.0) / g.norm(dim=1, keepdim=True).clamp(min=1e-30)


def _correction(s: Tensor, y: Tensor) -> Correction:
    """Return a step, the change of the gradient, their rho (0: unusable) and scale, for all later iterations."""
    sy = (s * y).sum(1, keepdim=True)
    # Without positive curvature the inverse Hessian would not be positive definite.
    usable = sy > 1e-10 * s.norm(dim=1, keepdim=True) * y.norm(dim=1, keepdim=True)
    rho = torch.where(usable, 1 / torch.where(usable, sy, 1.0), 0.0)
    return s, y, rho, sy / (y * y).sum(1, keepdim=True).clamp(min=1e-30)


def _inverse_hessian_times(g: Tensor, x: Tensor, corrections: list[Correction]) -> Tensor:
    """Compute the two-loop recursion (Nocedal and Wright, algorithm 7.4) per row, without unusable corrections."""
    q = g.clone()
    factors = []
    for s, y, rho, _ in reversed(corrections):
        factors.append(rho * (s * q).sum(1, keepdim=True))
        q = q - factors[-1] * y
    scale = _first_scale(x, g)
    for _, _, rho, own in corrections:
        # The newest usable correction decides the scale; older ones come first in this order and are overwritten.
        scale = torch.where(rho > 0, own, scale)
    q = q * scale
    for (s, y, rho, _), a in zip(corrections, reversed(factors), strict=True):
        q = q + s * (a - rho * (y * q).sum(1, keepdim=True))
    return q
