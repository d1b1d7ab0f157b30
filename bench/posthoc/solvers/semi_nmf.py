"""Semi-NMF and convex-NMF: factorisations of features of any sign (Ding, Li and Jordan 2008).

In that paper data are columns: its ``X (D, M) ~ F G^T`` is ``F ~ E P`` here, with G = E and F = P^T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.posthoc.solvers.init import clusters, valid_rows
from bench.posthoc.solvers.nmf import Factors, Tensors, distance, factorise_by_class, iterate, ratio

# Bytes that the M x M products of convex-NMF may take at a time.
_MEMORY = 2**30


def factorise_semi(
    F: Tensor, rows: Tensor, k: int, *, seed: int, classes: list[int], max_iter: int = 200, tol: float = 1e-4
) -> Factors:
    """Factorise by semi-NMF: ``E >= 0``, P of any sign.

    Arguments as in :func:`bench.posthoc.solvers.nmf.factorise`; features may have any sign.
    """

    def update(data: Tensors, state: Tensors) -> Tensors:
        Et, _ = state
        P = _least_squares(data[0], Et)  # Ding et al., equation 10
        A, G = P @ data[0].mT, P @ P.mT
        # Equation 11: E sqrt([(F P^T)+ + E (P P^T)-] / [(F P^T)- + E (P P^T)+]).
        Et = Et * ratio(A.clamp(min=0) + (-G).clamp(min=0) @ Et, (-A).clamp(min=0) + G.clamp(min=0) @ Et).sqrt()
        return Et, P

    def batch(F: Tensor, rows: Tensor, classes: list[int]) -> Factors:
        Et = _indicator(F, rows, k, seed, classes)
        state = (Et, _least_squares(F, Et))
        (Et, _), updates = iterate((F,), state, update, lambda data, s: distance(data[0], *s), max_iter, tol)
        P = _least_squares(F, Et)
        return Factors(Et.mT, P, distance(F, Et, P), updates)

    return factorise_by_class(batch, F, rows, classes)


def factorise_convex(
    F: Tensor, rows: Tensor, k: int, *, seed: int, classes: list[int], max_iter: int = 200, tol: float = 1e-4
) -> Factors:
    """Factorise by convex-NMF: ``E >= 0`` and ``P = W^T F``, ``W >= 0``, so that prototypes are mixtures of features.

    Arguments as in :func:`factorise_semi`. The products of all pairs of rows take M^2 numbers per class.
    """

    def update(data: Tensors, state: Tensors) -> Tensors:
        Et, Wt = state
        _, above, below = data  # Y+ and Y- of Y = F F^T, symmetric
        # Ding et al., equation 18: E sqrt([Y+ W + E W^T Y- W] / [Y- W + E W^T Y+ W]).
        A, C = Wt @ above, Wt @ below
        Et = Et * ratio(A + (C @ Wt.mT) @ Et, C + (A @ Wt.mT) @ Et).sqrt()
        # Equation 19: W sqrt([Y+ E + Y- W E^T E] / [Y- E + Y+ W E^T E]).
        EE = Et @ Et.mT
        Wt = Wt * ratio(Et @ above + EE @ C, Et @ below + EE @ A).sqrt()
        return Et, Wt

    def batch(F: Tensor, rows: Tensor, classes: list[int]) -> Factors:
        Y = F @ F.mT
        H = clusters(F, rows, k, seed, classes)
        Et = _indicator(F, rows, k, seed, classes)
        Wt = Et / H.sum(2, keepdim=True).clamp(min=1)  # Ding et al., section 3.3: (H + 0.2) D_n^-1
        (Et, Wt), updates = iterate(
            (F, Y.clamp(min=0), (-Y).clamp(min=0)),
            (Et, Wt),
            update,
            lambda data, s: distance(data[0], s[0], s[1] @ data[0]),
            max_iter,
            tol,
        )
        P = Wt @ F
        return Factors(Et.mT, P, distance(F, Et, P), updates)

    if F.device.type == "cpu":
        return factorise_by_class(batch, F, rows, classes)
    group = max(1, _MEMORY // (4 * F.shape[1] ** 2 * F.element_size()))
    parts = [batch(F[b : b + group], rows[b : b + group], classes[b : b + group]) for b in range(0, len(F), group)]
    return Factors(*(torch.cat([getattr(part, name) for part in parts]) for name in ("E", "P", "error", "updates")))


def _indicator(F: Tensor, rows: Tensor, k: int, seed: int, classes: list[int]) -> Tensor:
    """Return cluster indicators plus 0.2 (Ding et al., section 3.3)."""
    # A multiplicative update cannot leave zero.
    return clusters(F, rows, k, seed, classes) + 0.2 * valid_rows(F, rows)[:, None].to(F.dtype)


def _least_squares(F: Tensor, Et: Tensor) -> Tensor:
    # The pseudo-inverse: components that coincide or died have no inverse.
    return torch.linalg.pinv(Et @ Et.mT, hermitian=True) @ (Et @ F)
