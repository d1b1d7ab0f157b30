"""Literal reference of the published pipeline: NumPy, cvxpy and SciPy, class by class, sharing no code with the rest.

``speed decompose`` measures against it and the tests compare with it. For the choices that the paper leaves open it
takes those of ``speed decompose``: the Euclidean norm over all locations of a class, and R/k as the start of
equation 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass
class Decomposed:
    """Decomposition of one class.

    Attributes:
        E: ``(M, k)``.
        P: ``(k, D)``.
        alpha: ``(k,)``.
        r: parts of the residual ``(k, D)``.
        refined: ``(k, D)``, whose sum is the classifier's row.
        error: Frobenius norm of ``F - E P``.
        objective: equation 6 at ``r``.
        seconds: seconds of each step: ``nmf``, ``scaling``, ``refinement``.
    """

    E: Array
    P: Array
    alpha: Array
    r: Array
    refined: Array
    error: float
    objective: float
    seconds: dict[str, float] = field(default_factory=dict)


def decompose(
    F: Array, v: Array, k: int, seed: int = 0, factors: Callable[[Array, int, int], tuple[Array, Array]] | None = None
) -> Decomposed:
    """Compute equations 2 to 7 for one class.

    Args:
        F: features ``(M, D)``, non-negative, in the precision to work in.
        v: the classifier's row ``(D,)``.
        k: number of prototypes.
        seed: seed of the factorisation's start.
        factors: replacement of the first step, ``(F, k, seed) -> E, P``.
    """
    ticks = [perf_counter()]
    E, P = (factors or nmf)(F, k, seed)
    ticks.append(perf_counter())
    alpha = scale(v, P)
    ticks.append(perf_counter())
    R = v - alpha @ P  # equation 4
    r = refine(F, P, R)
    refined = alpha[:, None] * P + r  # equation 7
    ticks.append(perf_counter())
    seconds = dict(zip(("nmf", "scaling", "refinement"), np.diff(ticks).tolist(), strict=True))
    error = float(np.linalg.norm(F - E @ P))
    return Decomposed(E, P, alpha, r, refined, error, objective(F, P, r), seconds)


def nmf(F: Array, k: int, seed: int) -> tuple[Array, Array]:
    """Factorise by DFF (equation 2): its start and at most 200 of its updates (paper, section 3.2)."""
    rng = np.random.default_rng(seed)
    scale = np.sqrt(F.mean() / k)
    E = np.abs(rng.standard_normal((len(F), k))).astype(F.dtype) * scale
    P = np.abs(rng.standard_normal((k, F.shape[1]))).astype(F.dtype) * scale
    return multiply(F, E, P)


def multiply(F: Array, E: Array, P: Array, max_iter: int = 200, tol: float = 1e-4) -> tuple[Array, Array]:
    """Run the multiplicative updates of Lee and Seung, E before P, with DFF's stopping rule."""
    first = previous = np.linalg.norm(F - E @ P)
    for step in range(max_iter):
        denominator = E @ (P @ P.T)
        denominator[denominator == 0] = 1e-7
        E = E * ((F @ P.T) / denominator)
        denominator = (E.T @ E) @ P
        denominator[denominator == 0] = 1e-7
        P = P * ((E.T @ F) / denominator)
        if step % 10 == 0:
            error = np.linalg.norm(F - E @ P)
            if (previous - error) / first < tol:
                break
            previous = error
    return E, P


def scale(v: Array, P: Array) -> Array:
    """Solve equation 3 by cvxpy: ``alpha (k,)`` for the row ``v (D,)`` and prototypes ``P (k, D)``."""
    import cvxpy

    alpha = cvxpy.Variable(len(P))
    cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(v - P.T @ alpha))).solve()
    return np.asarray(alpha.value)


def refine(F: Array, P: Array, R: Array, max_iter: int = 100) -> Array:
    """Minimise equation 6 by SciPy's Nelder-Mead, tolerance 1e-6: parts ``r (k, D)`` with the sum ``R (D,)``.

    The first k - 1 parts are free, the last is the remainder (paper, appendix C). The targets are computed once, and
    one product gives the maps of all parts, as any implementation would do.
    """
    from scipy.optimize import minimize

    k, D = P.shape
    if k == 1:
        return R[None]
    target = _normalised(F @ P.T)

    def whole(x: Array) -> Array:
        parts = x.reshape(k - 1, D)
        return np.concatenate([parts, (R - parts.sum(0))[None]])

    def height(x: Array) -> float:
        return float(((target - _normalised(F @ whole(x).T.astype(F.dtype))) ** 2).sum())

    start = np.tile(R / k, k - 1)
    return whole(minimize(height, start, method="Nelder-Mead", tol=1e-6, options={"maxiter": max_iter}).x)


def objective(F: Array, P: Array, r: Array) -> float:
    """Evaluate equation 6 in float64, one prototype at a time."""
    F = F.astype(np.float64)
    return float(sum(((_normalised(F @ p) - _normalised(F @ part)) ** 2).sum() for p, part in zip(P, r, strict=True)))


def _normalised(maps: Array) -> Array:
    length = np.linalg.norm(maps, axis=0)
    return maps / np.where(length > 0, length, 1)
