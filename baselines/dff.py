"""Concepts of a class from a non-negative factorisation: deep feature factorisation, and what CRAFT shares with it.

The features of a cell are ``x ~ w H + rest`` with the class's concepts H ``(k, D)`` and codes w of zero or more. A
concept's map is its code, its contribution to the logit ``w_i <h_i, v>``; the rest of x is the remainder. That is the
factorisation with which ``ours`` begins, and nothing after it: a map is a code and not a product with a prototype, and
no refinement makes the concepts add up to the row v of the classifier.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from baselines.remainder import ClassifierWithRemainder, ExplanationMethod, class_features, empty_layer
from bench.contract import CellError, FitContext, Settings
from bench.posthoc.feature_source import BackboneFeatures
from bench.posthoc.solvers.hals import descend
from bench.posthoc.solvers.init import Init
from bench.posthoc.solvers.nmf import Factors, Solver, factorise

_SWEEPS = 200
"""Of coordinate descent; a test compares with the exact solution."""


class ConceptClassifier(ClassifierWithRemainder):
    """Black box with k concepts for each class, in the order of the classes; maps are codes."""

    def __init__(self, backbone: nn.Module, weight: Tensor, bias: Tensor, k: int, concepts: Tensor) -> None:
        owned = torch.eye(len(concepts) // k, len(bias), dtype=torch.bool, device=concepts.device)
        # <H_i, v>: a code of 1 in every cell adds so much to the logit.
        shares = concepts.double() @ weight.detach().double().T
        super().__init__(backbone, weight, bias, owned.repeat_interleave(k, 0), concepts, shares)
        self.k = k

    @torch.no_grad()  # a solver has no gradient
    def maps(self, features: Tensor, indices: Tensor | None = None) -> Tensor:
        """Compute the codes of all concepts, or of those of ``indices``, each class's by themselves."""
        assert self.prototypes.vectors is not None
        # Negative features count as zero, as in the factorisation.
        cells = features.clamp(min=0).flatten(2)
        if indices is not None:
            return codes(self.rows(indices, cells.dtype), cells).unflatten(2, features.shape[2:])
        concepts = self.prototypes.vectors.to(cells.dtype).unflatten(0, (-1, self.k))
        found = codes(concepts, cells.movedim(1, 0).flatten(1))
        return found.flatten(0, 1).unflatten(1, (len(cells), *features.shape[2:])).movedim(1, 0)

    def means(self, features: Tensor) -> Tensor:
        """Compute the mean of every map ``(N, P)``."""
        return self.maps(features).mean((2, 3))


def codes(concepts: Tensor, cells: Tensor) -> Tensor:
    """Compute the codes of zero or more that reconstruct cells best, by least squares.

    Args:
        concepts: ``(B, k, D)``.
        cells: features ``(B, D, n)``, or ``(D, n)`` for all B.

    Returns:
        ``(B, k, n)``.

    Example:
        >>> codes(torch.eye(2)[None], torch.tensor([[3.0], [-1.0]]))[0, :, 0].tolist()
        [3.0, 0.0]
    """
    products = concepts @ cells
    # min |x - H^T w|^2 over w >= 0 from its normal equations: H x and H H^T are all that it needs.
    return descend(products, concepts @ concepts.mT, torch.zeros_like(products), _SWEEPS)


class ConceptConfig(Settings):
    """Settings of a factorisation of each class's features.

    Attributes:
        k: concepts of each class.
        nmf_solver, nmf_init, nmf_max_iter, nmf_tol: as for ``ours``, whose solver it is.
    """

    k: PositiveInt = 3
    nmf_solver: Solver = "mu"
    nmf_init: Init = "random"
    nmf_max_iter: PositiveInt = 200
    nmf_tol: NonNegativeFloat = 1e-4


def factors_of(config: Any, rows: Tensor, label: int, seed: int, k: int) -> Factors:
    """Factorise the features ``(M, D)`` of one class into k concepts.

    Raises:
        CellError: if they are not finite, or have nothing above zero.
    """
    if not bool(rows.isfinite().all()):
        raise CellError(f"class {label}: features are not finite")
    if not bool((rows > 0).any()):
        raise CellError(f"class {label}: all its features are zero or below, there is nothing to factorise")
    how = {"solver": config.nmf_solver, "init": config.nmf_init, "max_iter": config.nmf_max_iter, "tol": config.nmf_tol}
    count = torch.tensor([len(rows)], device=rows.device)
    return factorise(rows.clamp(min=0)[None], count, k, seed=seed, classes=[label], **how)


class ConceptMethod(ExplanationMethod):
    """Method that explains the black box by codes of concepts. Subclasses say which rows are factorised."""

    tells = ("nmf_relative_error", "negative_share")

    def build(self, task: FitContext) -> ConceptClassifier:
        """Build a model of the fitted shapes, filled with zeros."""
        backbone: Any = task.backbone()
        concepts = torch.zeros(task.train.classes * task.config.k, backbone.channels)
        return ConceptClassifier(backbone, *empty_layer(task, backbone.channels), task.config.k, concepts).eval()

    def examples(self, task: FitContext, source: BackboneFeatures, label: int) -> Tensor:
        """Return the features of a class that are factorised ``(M, D)``."""
        raise TypeError(f"{type(self).__name__} has no examples")

    def ranked(self, concepts: Tensor, shares: Tensor, source: BackboneFeatures, label: int) -> Tensor:
        """Return the order of concepts ``(k, D)`` of shares ``(k,)``; by default that of the factors."""
        return torch.arange(len(concepts))

    @torch.no_grad()
    def fit(self, task: FitContext) -> ConceptClassifier:
        """Factorise each class's features.

        Raises:
            CellError: if a class has no image, or features that are not finite or all zero.
        """
        black_box: Any = task.black_box
        source = class_features(task)
        parts, errors, against, first = [], [], [], []
        labels = range(task.train.classes)
        for label in task.progress.track(labels, "classes factorised", len(labels)):
            examples = self.examples(task, source, label)
            factors = factors_of(task.config, examples, label, task.seed, task.config.k)
            concepts, row = factors.P[0], black_box.head.weight[label].detach()
            order = self.ranked(concepts, concepts @ row, source, label).to(concepts.device)
            parts.append(concepts[order])
            errors.append(float(factors.error[0] / examples.clamp(min=0).norm()))
            against.append((parts[-1] @ row < 0).double())
            first.append(float(against[-1][0]))
        task.facts["nmf_relative_error"] = sum(errors) / len(errors)
        # In percent: concepts that speak against their class, and classes in which the first one does.
        task.facts["negative_share"] = 100 * float(torch.cat(against).mean())
        task.facts["first_negative"] = 100 * sum(first) / len(first)
        head = black_box.head
        return ConceptClassifier(black_box.backbone, head.weight, head.bias, task.config.k, torch.cat(parts)).eval()


class DFF(ConceptMethod):
    """Concepts from all cells of a class's training images; codes of test images with the concepts fixed.

    The published code factorises the images that it shows. Here concepts come from training images and codes are least
    squares, so that an image's explanation does not depend on the others shown.

    Its facts: ``nmf_relative_error``, and in percent ``negative_share``, concepts whose contribution to their own class
    is negative, and ``first_negative``, classes in which that holds of the first.
    """

    name = "dff"
    paper = "Collins, Achanta and Süsstrunk, Deep Feature Factorization for Concept Discovery, ECCV 2018"

    Config = ConceptConfig

    def examples(self, task: FitContext, source: BackboneFeatures, label: int) -> Tensor:
        """Return all cells of the class's training images."""
        return source.of(label)[0].flatten(0, 1).to(task.device)
