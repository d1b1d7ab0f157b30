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

CHECK_EVERY = 10
"""Updates between two looks at the error, as in the code that the paper builds on (spec/baselines.md, 15.3)."""

_SPARE = 2**28
"""Bytes that the difference F - E P may take at a time."""


@dataclass(frozen=True)
class Factors:
    """``F ~ E P`` for B classes.

    Attributes:
        E: ``(B, M, k)``.
        P: ``(B, k, D)``.
        error: Frobenius norm of what is left, ``(B,)``.
        updates: how many updates each class took, ``(B,)``.
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
    """NMF of B classes that know nothing of each other.

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
        solver: ``mu`` (the multiplicative updates of Lee and Seung as in DFF) or ``hals`` (see ``hals.py``).
        init: see :func:`bench.posthoc.solvers.init.initialise`.
    """
    update = {"mu": _multiply, "hals": sweep}[solver]

    def together(F: Tensor, rows: Tensor, classes: list[int]) -> Factors:
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

    return apart(together, F, rows, classes)


def apart(
    together: Callable[[Tensor, Tensor, list[int]], Factors], F: Tensor, rows: Tensor, classes: list[int]
) -> Factors:
    """Factorise class by class on a CPU, all classes at once elsewhere.

    A class's features (3 MB for 30 images of 49 cells and 512 channels) stay in the cache from update to update if
    it is finished before the next one begins; a batch would fetch them from memory every time. The rows of padding
    are cut off, so that a class's result is the same to the bit in any company.
    """
    if F.device.type != "cpu":
        return together(F, rows, classes)
    pieces = [(F[b : b + 1, : int(n)], rows[b : b + 1], classes[b : b + 1]) for b, n in enumerate(rows)]
    threads = torch.get_num_threads()
    if threads == 1:
        found = [together(*piece) for piece in pieces]
    else:
        # One class per core: products with k rows are too small to be shared among the cores, and where a core is busy
        # with something else every one of them would wait for it. The result does not depend on the number of cores.
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                found = list(pool.map(lambda piece: together(*piece), pieces))
        finally:
            torch.set_num_threads(threads)
    E = F.new_zeros(*F.shape[:2], found[0].E.shape[2])
    for b, one in enumerate(found):
        E[b, : one.E.shape[1]] = one.E[0]
    return Factors(E, *(torch.cat([getattr(one, name) for one in found]) for name in ("P", "error", "updates")))


def iterate(
    data: Tensors,
    state: Tensors,
    update: Callable[[Tensors, Tensors], Tensors],
    error: Callable[[Tensors, Tensors], Tensor],
    max_iter: int,
    tol: float,
) -> tuple[Tensors, Tensor]:
    """Update until every class has stopped by DFF's rule; the final state and the number of updates ``(B,)``.

    What a class has reached when it stops is put aside; when half of the classes have stopped, the data of the others
    are moved together, so that finished classes cost nothing.

    Args:
        data: tensors ``(B, ...)`` that the updates read.
        state: tensors ``(B, ...)`` that they change.
        update: ``(data, state) -> state``, class by class independent.
        error: ``(data, state) -> (B,)``.
        max_iter: most updates.
        tol: smallest decrease between two looks, relative to the first error.
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
        now = error(data, state)
        stops = running & ((previous - now) < tol * first)
        previous = now
        if not bool(stops.any()):
            continue
        _put(final, index, state, stops)
        updates[index[stops]] = step + 1
        running = running & ~stops
        left = int(running.sum())
        if left == 0:
            break
        if 2 * left <= len(running):
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
    """``above / below``; a zero denominator is 1e-7, nothing is added elsewhere (spec/baselines.md, 15.3).

    What is left of a denominator that has all but underflowed counts as zero: the quotient would be infinite.
    """
    vanished = below < 1e8 * torch.finfo(below.dtype).tiny
    return above / torch.where(vanished, 1e-7, below)


def distance(F: Tensor, Et: Tensor, P: Tensor) -> Tensor:
    """Frobenius norm of ``F - E P`` for each class ``(B,)``, some classes at a time."""
    group = max(1, _SPARE // (F[0].numel() * F.element_size()))
    return torch.cat(
        [
            torch.baddbmm(f, e.mT, p, alpha=-1).flatten(1).norm(dim=1)
            for f, e, p in zip(F.split(group), Et.split(group), P.split(group), strict=True)
        ]
    )
