"""Non-negative matrix factorisation of many classes at once (equation 2 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.seeding import derive

CHECK_EVERY = 10
"""Updates between two looks at the error, as in the code that the paper builds on (spec/baselines.md, 15.3)."""


@dataclass(frozen=True)
class Factors:
    """``F ~ E P`` for B classes: E ``(B, M, k)``, P ``(B, k, D)``, error ``(B,)`` = the Frobenius norm of the rest."""

    E: Tensor
    P: Tensor
    error: Tensor


def factorise(
    F: Tensor, rows: Tensor, k: int, *, seed: int, classes: list[int], max_iter: int = 200, tol: float = 1e-4
) -> Factors:
    """Multiplicative updates of Lee and Seung with the starting point and the stopping rule of DFF.

    E is updated before P. A class stops when its error fell by less than ``tol`` of its first error since the last
    look; it is then left as it is while the others go on.

    Args:
        F: features ``(B, M, D)``, non-negative; rows beyond a class's own are zero.
        rows: how many rows of each class are its own, ``(B,)``.
        k: number of components.
        seed: of the starting points, together with the class.
        classes: the B class numbers.
        max_iter: most updates.
        tol: see above.
    """
    E, P = _start(F, rows, k, seed, classes)
    first = previous = _error(F, E, P)
    active = torch.ones(len(F), dtype=torch.bool, device=F.device)
    error = first
    for step in range(max_iter):
        new_E = E * _ratio(F @ P.mT, E @ (P @ P.mT))
        new_P = P * _ratio(new_E.mT @ F, (new_E.mT @ new_E) @ P)
        E = torch.where(active[:, None, None], new_E, E)
        P = torch.where(active[:, None, None], new_P, P)
        if step % CHECK_EVERY == 0:
            error = torch.where(active, _error(F, E, P), error)
            active = active & ((previous - error) >= tol * first)
            previous = error
            if not bool(active.any()):
                break
    return Factors(E, P, _error(F, E, P))


def _start(F: Tensor, rows: Tensor, k: int, seed: int, classes: list[int]) -> tuple[Tensor, Tensor]:
    B, M, D = F.shape
    # |N(0, 1)| sqrt(mean(F) / k): the product of two such factors has about the mean of F.
    scale = (F.sum((1, 2)) / (rows * D) / k).sqrt()[:, None, None]
    E = torch.zeros(B, M, k, device=F.device, dtype=F.dtype)
    P = torch.empty(B, k, D, device=F.device, dtype=F.dtype)
    for b, label in enumerate(classes):
        # Drawn on the CPU and per class: the same start on every device and whatever other classes are in the batch.
        generator = torch.Generator().manual_seed(derive(seed, "nmf", label))
        n = int(rows[b])
        E[b, :n] = torch.randn(n, k, generator=generator).abs().to(F)
        P[b] = torch.randn(k, D, generator=generator).abs().to(F)
    return E * scale, P * scale


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    # A zero denominator is replaced by 1e-7, nothing is added elsewhere (spec/baselines.md, 15.3).
    return above / torch.where(below == 0, torch.full_like(below, 1e-7), below)


def _error(F: Tensor, E: Tensor, P: Tensor) -> Tensor:
    return torch.baddbmm(F, E, P, alpha=-1).flatten(1).norm(dim=1)
