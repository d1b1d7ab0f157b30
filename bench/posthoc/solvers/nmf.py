"""Non-negative matrix factorisation of many classes at once (equation 2 of the paper)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.posthoc.solvers.hals import sweep
from bench.posthoc.solvers.init import Init, initialise

Solver = Literal["mu", "hals"]
Tensors = tuple[Tensor, ...]

# Updates between two checks of the error, as in DFF, on which the paper builds (edocollins/DFF, ``nmf.py``).
CHECK_EVERY = 10

# Bytes that the difference F - E P may take at a time.
_SPARE = {"cpu": 2**28, "cuda": 2**31}


@dataclass(frozen=True)
class Factors:
    """Factors of ``F ~ E P`` for B classes.

    Attributes:
        E: coefficients ``(B, M, k)``.
        P: components ``(B, k, D)``.
        error: Frobenius norm of ``F - E P``, ``(B,)``.
        updates: number of updates of each class ``(B,)``.
    """

    E: Tensor
    P: Tensor
    error: Tensor
    updates: Tensor


def factorise(
    F: Tensor,
    rows: Tensor,
    k: int,
    *,
    seed: int,
    classes: list[int],
    max_iter: int = 200,
    tol: float = 1e-4,
    solver: Solver = "mu",
    init: Init = "random",
) -> Factors:
    """Factorise the features of B independent classes (equation 2).

    Args:
        F: features ``(B, M, D)``, non-negative, zero beyond a class's valid rows.
        rows: number of valid rows per class ``(B,)``.
        k: number of components.
        seed: seed of the starting points, together with the class.
        classes: the B class numbers.
        max_iter: maximum number of updates, each of E and then of P.
        tol: a class stops if its error has fallen by less than ``tol`` of its first error since the last check.
        solver: ``mu`` (multiplicative updates of Lee and Seung as in DFF) or ``hals`` (see ``hals.py``).
        init: starting point, see :func:`bench.posthoc.solvers.init.initialise`.

    Example:
        >>> F = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]])  # one class, three locations, two channels
        >>> factors = factorise(F, torch.tensor([3]), 2, seed=0, classes=[0], solver="hals", init="nndsvd")
        >>> torch.allclose(factors.E @ factors.P, F, atol=1e-4)
        True
    """
    update = {"mu": _multiply, "hals": sweep}[solver]

    def batch(F: Tensor, rows: Tensor, classes: list[int]) -> Factors:
        state = initialise(F, rows, k, seed, classes, init, fill=solver == "mu")
        (Et, P), updates = iterate(
            (F,),
            state,
            lambda data, state: update(data[0], *state),
            lambda data, state: distance(data[0], *state),
            max_iter,
            tol,
        )
        return Factors(Et.mT, P, distance(F, Et, P), updates)

    return factorise_by_class(batch, F, rows, classes)


def factorise_by_class(
    batch: Callable[[Tensor, Tensor, list[int]], Factors], F: Tensor, rows: Tensor, classes: list[int]
) -> Factors:
    """Factorise class by class on a CPU, in one batch elsewhere.

    ``batch`` factorises features ``(B, M, D)`` with numbers of rows ``(B,)``, of B classes.
    """
    if F.device.type != "cpu":
        return batch(F, rows, classes)
    # A class's features (3 MB for 30 images of 49 locations and 512 channels) stay in the processor's cache from
    # update to update; a batch would fetch them from memory each time. Without the padding, the bits of a class do not
    # depend on the other classes.
    pieces = [(F[b : b + 1, : int(n)], rows[b : b + 1], classes[b : b + 1]) for b, n in enumerate(rows)]
    threads = torch.get_num_threads()
    if threads == 1:
        factors = [batch(*piece) for piece in pieces]
    else:
        # One class per core: products with k rows are too small to be shared among cores, and a core that is busy
        # would delay each of them. The result does not depend on the number of cores.
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                factors = list(pool.map(lambda piece: batch(*piece), pieces))
        finally:
            torch.set_num_threads(threads)
    E = F.new_zeros(*F.shape[:2], factors[0].E.shape[2])
    for b, part in enumerate(factors):
        E[b, : part.E.shape[1]] = part.E[0]
    return Factors(E, *(torch.cat([getattr(part, name) for part in factors]) for name in ("P", "error", "updates")))


def iterate(
    data: Tensors,
    state: Tensors,
    update: Callable[[Tensors, Tensors], Tensors],
    error: Callable[[Tensors, Tensors], Tensor],
    max_iter: int,
    tol: float,
) -> tuple[Tensors, Tensor]:
    """Update until every class has stopped by DFF's rule.

    Args:
        data: tensors ``(B, ...)`` that the updates read.
        state: tensors ``(B, ...)`` that they change.
        update: function ``(data, state) -> state``, independent for each class.
        error: function ``(data, state) -> (B,)``.
        max_iter: maximum number of updates.
        tol: smallest decrease between two checks, relative to the first error.

    Returns:
        The state of each class when it stopped, and the number of its updates ``(B,)``.
    """
    index = torch.arange(len(data[0]), device=data[0].device)
    updates = torch.full_like(index, max_iter)
    final = tuple(torch.empty_like(part) for part in state)
    running = torch.ones_like(index, dtype=torch.bool)
    first = previous = error(data, state)
    for step in range(max_iter):
        state = update(data, state)
        if step % CHECK_EVERY:
            continue
        # Checked after updates 1, 11, 21, ... as in DFF.
        current = error(data, state)
        stops = running & ((previous - current) < tol * first)
        previous = current
        if not bool(stops.any()):
            continue
        _put(final, index, state, stops)
        updates[index[stops]] = step + 1
        running = running & ~stops
        remaining = int(running.sum())
        if remaining == 0:
            break
        if 2 * remaining <= len(running):
            # Half of the classes have stopped: the others move into a smaller batch, so that these cost nothing.
            data, state, (index, first, previous) = (
                tuple(part[running] for part in parts) for parts in (data, state, (index, first, previous))
            )
            running = torch.ones_like(index, dtype=torch.bool)
    _put(final, index, state, running)
    return final, updates


def _put(final: Tensors, index: Tensor, state: Tensors, chosen: Tensor) -> None:
    for whole, part in zip(final, state, strict=True):
        whole[index[chosen]] = part[chosen]


def _multiply(F: Tensor, Et: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
    Et = Et * ratio(P @ F.mT, (P @ P.mT) @ Et)
    P = P * ratio(Et @ F, (Et @ Et.mT) @ P)
    return Et, P


def ratio(above: Tensor, below: Tensor) -> Tensor:
    """Compute ``above / below`` with 1e-7 for zero denominators and nothing added to others, as in DFF's ``nmf.py``."""
    # A denominator close to underflow counts as zero: the quotient would be infinite.
    vanished = below < 1e8 * torch.finfo(below.dtype).tiny
    return above / torch.where(vanished, 1e-7, below)


def distance(F: Tensor, Et: Tensor, P: Tensor) -> Tensor:
    """Compute the Frobenius norm of ``F - E P`` for each class ``(B,)``."""
    # Some classes at a time: the difference is as large as F.
    group = max(1, _SPARE.get(F.device.type, _SPARE["cpu"]) // (F[0].numel() * F.element_size()))
    return torch.cat(
        [
            torch.baddbmm(f, e.mT, p, alpha=-1).flatten(1).norm(dim=1)
            for f, e, p in zip(F.split(group), Et.split(group), P.split(group), strict=True)
        ]
    )
