"""Decomposition of classes from their features, step by step (equations 2 to 7 of the paper)."""

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

# Measurements of :func:`decompose_classes` for each class.
NUMBERS = (
    "nmf_relative_error",
    "nmf_updates",
    "residual_share",
    "negative_share",
    "objective_naive",
    "cancellation",
    "objective",
)


class DecompositionConfig(Settings):
    """Settings of the paper, with a choice of this project for each that the paper leaves open.

    Attributes:
        k: prototypes per class.
        factorisation: ``nmf`` (paper; negative features are set to zero), or ``semi`` and ``convex`` (Ding, Li and
            Jordan 2008), which accept them.
        nmf_solver: ``mu``: multiplicative updates (paper); ``hals``: a lower error in less time.
        nmf_init: ``random`` (DFF) or ``nndsvd``; for ``nmf`` only.
        nmf_max_iter: maximum number of updates (paper, section 3.2).
        nmf_tol: stopping tolerance relative to the first error (paper, section 3.2).
        scaling: equation 3 in closed form, by cvxpy (paper), or with non-negative coefficients.
        refinement: distribution of the residual (equations 5 to 7): ``nelder-mead`` is the paper's solver, ``none``
            omits the residual, ``contrast`` is not the paper's (see ``contrast.py``).
        norm: Norm of equation 6.
        norm_over: Norm over all images of a class together, or image by image.
        start: starting point of the search.
        space: search space: all (k-1) D numbers, or combinations of the prototypes and the residual.
        strength: size of the contrasts of ``contrast``, and so the cancellation between prototypes.
        rounds: updates of the peaks of ``contrast``.
    """

    k: PositiveInt = 3
    factorisation: Literal["nmf", "semi", "convex"] = "nmf"
    nmf_solver: NmfSolver = "mu"
    # DFF begins at random; NNDSVD by measurement (reports/decomposition.md).
    nmf_init: Init = "nndsvd"
    nmf_max_iter: PositiveInt = 200
    nmf_tol: NonNegativeFloat = 1e-4
    scaling: Scaling = "closed"
    # The paper's Nelder-Mead moves by under 1 % in the 100 iterations that it has for (k-1) D dimensions.
    refinement: Solver | Literal["contrast"] = "lbfgs"
    # Equation 6 does not define its Norm; z-scores over all locations of a class by measurement
    # (reports/decomposition.md).
    norm: Norm = "zscore"
    norm_over: Over = "class"
    # The paper does not give the starting point; the naive split by measurement.
    start: Start = "naive"
    # (k-1)(k+1) numbers instead of (k-1) D; see `distribute` for the reason that this loses nothing.
    space: Space = "span"
    strength: NonNegativeFloat = 1.6
    rounds: NonNegativeInt = 10


def decompose_classes(
    config: Any, F: Tensor, rows: Tensor, v: Tensor, grid: tuple[int, int], seed: int, classes: list[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Decompose the rows of B classes into prototypes that sum to them (with ``refinement: none``: approximately).

    Args:
        config: a :class:`DecompositionConfig`.
        F: features ``(B, M, D)``, M = images x locations, zero beyond a class's valid rows.
        rows: number of valid rows per class ``(B,)``.
        v: rows of the classifier ``(B, D)``.
        grid: height and width of a feature map.
        seed: seed of the starting points.
        classes: the B class numbers.

    Returns:
        Refined prototypes ``(B, k, D)``, float64, and the measurements :data:`NUMBERS`, each ``(B,)``.
    """
    # Negative features count as zero (paper, section 4.3), in the objective too.
    if config.factorisation == "nmf" and bool(F.amin() < 0):
        F = F.clamp(min=0)
    factors = factorise_classes(config, F, rows, seed, classes)
    P = factors.P  # equation 2
    alpha = scale(v, P, config.scaling)  # equation 3
    scaled = alpha[:, :, None] * P.double()
    R = v.double() - scaled.sum(1)  # equation 4
    objective = Alignment(F, rows, P, grid[0] * grid[1], config.norm, config.norm_over)
    if config.refinement == "contrast":
        r = contrast(F, rows, v, P, grid, config.strength, config.rounds) - scaled
    else:
        r = distribute(R, alpha, P, objective, config.refinement, config.start, config.space)
    refined = scaled + r  # equation 7
    if config.refinement != "none":
        # The rounding error in float64 goes into the last prototype, so that the sum is the row itself.
        refined[:, -1] += v.double() - refined.sum(1)
    maps = F @ refined.to(F.dtype).mT
    numbers = {
        "nmf_relative_error": factors.error / F.flatten(1).norm(dim=1),
        "nmf_updates": factors.updates.to(F.dtype),
        # Part of the row that the prototypes of equation 3 miss: 0 = there is no residual to distribute.
        "residual_share": R.norm(dim=1) / v.double().norm(dim=1),
        # Prototypes with a negative coefficient: their maps are high in the absence of the part.
        "negative_share": (alpha < 0).double().mean(1),
        "objective_naive": objective(naive(R, alpha).to(F.dtype)),
        # 1 = no prototype cancels another; of large values the maps look like parts but explain nothing.
        "cancellation": maps.norm(dim=1).sum(1) / maps.sum(2).norm(dim=1),
    }
    if config.refinement != "none":
        numbers["objective"] = objective(r.to(F.dtype))
    return refined, numbers


def factorise_classes(config: Any, F: Tensor, rows: Tensor, seed: int, classes: list[int]) -> Factors:
    """Factorise features by the configured method (equation 2); arguments as in :func:`decompose_classes`."""
    options: dict[str, Any] = {"seed": seed, "classes": classes, "max_iter": config.nmf_max_iter, "tol": config.nmf_tol}
    if config.factorisation == "semi":
        return factorise_semi(F, rows, config.k, **options)
    if config.factorisation == "convex":
        return factorise_convex(F, rows, config.k, **options)
    return factorise(F, rows, config.k, solver=config.nmf_solver, init=config.nmf_init, **options)
