"""The decomposition of some classes from their features, step by step (equations 2 to 7 of the paper)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from bench.contract import Settings
from bench.posthoc.contrast import contrast
from bench.posthoc.refinement import Alignment, Norm, Over, Solver, Space, Start, distribute, naive
from bench.posthoc.scaling import Solver as Scaling
from bench.posthoc.scaling import scale
from bench.posthoc.solvers.init import Init
from bench.posthoc.solvers.nmf import Factors, factorise
from bench.posthoc.solvers.nmf import Solver as NmfSolver
from bench.posthoc.solvers.semi_nmf import factorise_convex, factorise_semi

NUMBERS = (
    "nmf_relative_error",
    "nmf_updates",
    "residual_share",
    "negative_share",
    "objective_naive",
    "cancellation",
    "objective",
)
"""What :func:`decompose_classes` measures on the way."""


class DecompositionConfig(Settings):
    """The paper's settings; where the paper leaves one open, ours (see spec notes in CONTRIBUTING).

    Attributes:
        k: prototypes per class.
        factorisation: ``nmf`` (the paper: negative features are set to zero), or ``semi`` and ``convex`` (Ding et al.
            2008), which take them as they are.
        nmf_solver: multiplicative updates as the paper, or HALS, which reaches a lower error in less time.
        nmf_init: random as DFF, or NNDSVD; for ``nmf`` only.
        nmf_max_iter: most updates (paper, 3.2).
        nmf_tol: stopping tolerance relative to the first error (paper, 3.2).
        scaling: equation 3 in closed form, by cvxpy as the paper, or with coefficients that are not negative.
        refinement: how the residual is distributed; ``nelder-mead`` is the paper's solver, ``none`` leaves it out;
            ``contrast`` is not the paper's (see ``contrast.py``).
        norm: the Norm of equation 6, which the paper does not define.
        norm_over: over all images of a class together, or image by image.
        start: where the search begins, which the paper does not say.
        space: where the search looks: all of (k-1) D numbers, or combinations of the prototypes and the residual.
        strength: of ``contrast``: how far the prototypes are drawn apart, and so how far they cancel.
        rounds: of ``contrast``: how often its peaks are looked for.
    """

    k: PositiveInt = 3
    factorisation: Literal["nmf", "semi", "convex"] = "nmf"
    nmf_solver: NmfSolver = "mu"
    nmf_init: Init = "nndsvd"
    nmf_max_iter: PositiveInt = 200
    nmf_tol: NonNegativeFloat = 1e-4
    scaling: Scaling = "closed"
    refinement: Solver | Literal["contrast"] = "lbfgs"
    norm: Norm = "zscore"
    norm_over: Over = "class"
    start: Start = "naive"
    space: Space = "span"
    strength: NonNegativeFloat = 1.6
    rounds: NonNegativeInt = 10


def decompose_classes(
    config: Any, F: Tensor, rows: Tensor, v: Tensor, grid: tuple[int, int], seed: int, classes: list[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Prototypes of B classes whose sums are the classifier's rows (with ``refinement: none``: near them).

    Args:
        config: a :class:`DecompositionConfig`.
        F: features ``(B, M, D)``, M = images x cells; rows beyond a class's own are zero. For ``nmf`` negative ones
            count as zero (paper, 4.3), in the objective too.
        rows: own rows per class ``(B,)``.
        v: rows of the classifier ``(B, D)``.
        grid: H and W, the rows and columns of one image's cells.
        seed: of the starting points.
        classes: the B class numbers.

    Returns:
        Refined prototypes ``(B, k, D)``, float64, and what was measured for each class on the way.
    """
    if config.factorisation == "nmf" and bool(F.amin() < 0):
        F = F.clamp(min=0)
    factors = factorise_classes(config, F, rows, seed, classes)
    P = factors.P
    alpha = scale(v, P, config.scaling)
    scaled = alpha[:, :, None] * P.double()
    R = v.double() - scaled.sum(1)  # equation 4
    objective = Alignment(F, rows, P, grid[0] * grid[1], config.norm, config.norm_over)
    if config.refinement == "contrast":
        r = contrast(F, rows, v, P, grid, config.strength, config.rounds) - scaled
    else:
        r = distribute(R, alpha, P, objective, config.refinement, config.start, config.space)
    refined = scaled + r  # equation 7
    if config.refinement != "none":
        # What float64 rounding left over goes into the last prototype, so that the sum is the row itself.
        refined[:, -1] += v.double() - refined.sum(1)
    maps = F @ refined.to(F.dtype).mT
    numbers = {
        "nmf_relative_error": factors.error / F.flatten(1).norm(dim=1),
        "nmf_updates": factors.updates.to(F.dtype),
        # What the prototypes of equation 3 miss of the row: 0 = nothing is left to distribute.
        "residual_share": R.norm(dim=1) / v.double().norm(dim=1),
        # Prototypes that the sum subtracts: their maps are high where the part is not.
        "negative_share": (alpha < 0).double().mean(1),
        "objective_naive": objective(naive(R, alpha).to(F.dtype)),
        # 1 = no term cancels another; large values look well and explain nothing.
        "cancellation": maps.norm(dim=1).sum(1) / maps.sum(2).norm(dim=1),
    }
    if config.refinement != "none":
        numbers["objective"] = objective(r.to(F.dtype))
    return refined, numbers


def factorise_classes(config: Any, F: Tensor, rows: Tensor, seed: int, classes: list[int]) -> Factors:
    """Equation 2 with the factorisation that the configuration names; arguments as above."""
    chosen: dict[str, Any] = {"seed": seed, "classes": classes, "max_iter": config.nmf_max_iter, "tol": config.nmf_tol}
    if config.factorisation == "semi":
        return factorise_semi(F, rows, config.k, **chosen)
    if config.factorisation == "convex":
        return factorise_convex(F, rows, config.k, **chosen)
    return factorise(F, rows, config.k, solver=config.nmf_solver, init=config.nmf_init, **chosen)
