"""The decomposition of some classes from their features, step by step (equations 2 to 7 of the paper)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from bench.contract import Settings
from bench.posthoc.nmf import factorise
from bench.posthoc.refinement import Alignment, Norm, Over, Solver, Start, distribute, naive
from bench.posthoc.scaling import scale


class DecompositionConfig(Settings):
    """The paper's settings; where the paper leaves one open, ours (see spec notes in CONTRIBUTING).

    Attributes:
        k: prototypes per class.
        nmf_max_iter: most multiplicative updates (paper, 3.2).
        nmf_tol: stopping tolerance relative to the first error (paper, 3.2).
        scaling: equation 3 in closed form, or by cvxpy as the paper.
        refinement: how the residual is distributed; ``nelder-mead`` is the paper's solver.
        norm: the Norm of equation 6, which the paper does not define.
        norm_over: over all images of a class together, or image by image.
        start: where the search begins, which the paper does not say.
    """

    k: PositiveInt = 3
    nmf_max_iter: PositiveInt = 200
    nmf_tol: NonNegativeFloat = 1e-4
    scaling: Literal["closed", "cvxpy"] = "closed"
    refinement: Solver = "lbfgs"
    norm: Norm = "l2"
    norm_over: Over = "class"
    start: Start = "equal"


def decompose_classes(
    config: Any, F: Tensor, rows: Tensor, v: Tensor, cells: int, seed: int, classes: list[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Prototypes of B classes whose sums are the classifier's rows.

    Args:
        config: a :class:`DecompositionConfig`.
        F: features ``(B, M, D)``, non-negative, M = images x cells; rows beyond a class's own are zero.
        rows: own rows per class ``(B,)``.
        v: rows of the classifier ``(B, D)``.
        cells: HW, the cells of one image.
        seed: of the starting points.
        classes: the B class numbers.

    Returns:
        Refined prototypes ``(B, k, D)``, float64, and what was measured for each class on the way.
    """
    factors = factorise(F, rows, config.k, seed=seed, classes=classes, max_iter=config.nmf_max_iter, tol=config.nmf_tol)
    P = factors.P
    alpha = scale(v, P, config.scaling)
    scaled = alpha[:, :, None] * P.double()
    R = v.double() - scaled.sum(1)  # equation 4
    objective = Alignment(F, rows, P, cells, config.norm, config.norm_over)
    r = distribute(R, alpha, P, objective, config.refinement, config.start)
    refined = scaled + r  # equation 7
    # What float64 rounding left over goes into the last prototype, so that the sum is the row itself.
    refined[:, -1] += v.double() - refined.sum(1)
    maps = F @ refined.to(F.dtype).mT
    numbers = {
        "nmf_relative_error": factors.error / F.flatten(1).norm(dim=1),
        "objective_naive": objective(naive(R, alpha).to(F.dtype)),
        "objective": objective(r.to(F.dtype)),
        # 1 = no term cancels another; large values look well and explain nothing.
        "cancellation": maps.norm(dim=1).sum(1) / maps.sum(2).norm(dim=1),
    }
    return refined, numbers
