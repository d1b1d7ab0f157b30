"""Interpretable basis decomposition (Zhou, Sun, Bau and Torralba, ECCV 2018): rows of the classifier over concepts.

Concepts are unit directions q of the feature space. A class takes a few of them, one after the other, and its row is
``v = sum_i coef_i q_i + residual``; the residual, of which nothing is shown, is the remainder.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from baselines.dff import factors_of
from baselines.remainder import ClassifierWithRemainder, ExplanationMethod, class_features, empty_layer
from bench.contract import FitContext, Settings
from bench.posthoc.solvers.init import Init
from bench.posthoc.solvers.nmf import Solver

_PARALLEL = 1e-6
"""Squared length that the chosen concepts leave of one below which it is a combination of them."""
_BATCH = 32


class IBD(ExplanationMethod):
    """Concepts from a factorisation of each class's features: no annotation names them.

    The published concepts are classifiers of the 660 objects and parts of Broden. Here all classes choose among the
    concepts of all. Facts: ``residual_share``, the residual's part of a row's length, and ``negative_share``, percent
    of chosen concepts that speak against their class.
    """

    name = "ibd"
    paper = "Zhou, Sun, Bau and Torralba, Interpretable Basis Decomposition for Visual Explanation, ECCV 2018"
    tells = ("residual_share", "negative_share")

    class Config(Settings):
        """Settings of the basis.

        Attributes:
            k: concepts of each class (published 7).
            bank: concepts that each class offers to all.
            nmf_solver, nmf_init, nmf_max_iter, nmf_tol: factorisation that finds them.
        """

        k: PositiveInt = 7
        bank: PositiveInt = 10
        nmf_solver: Solver = "hals"
        nmf_init: Init = "nndsvd"
        nmf_max_iter: PositiveInt = 200
        nmf_tol: NonNegativeFloat = 1e-4

    def per_class(self, task: FitContext) -> int:
        """Return the number of concepts of each class, at most those in the bank."""
        return min(task.config.k, task.train.classes * task.config.bank)

    def build(self, task: FitContext) -> ClassifierWithRemainder:
        """Build a model of the fitted shapes, filled with zeros."""
        backbone: Any = task.backbone()
        vectors = torch.zeros(task.train.classes, self.per_class(task), backbone.channels)
        return _model(backbone, *empty_layer(task, backbone.channels), vectors)

    @torch.no_grad()
    def bank(self, task: FitContext) -> Tensor:
        """Return unit directions from which every class chooses ``(M, D)``."""
        source, found = class_features(task), []
        labels = range(task.train.classes)
        for label in task.progress.track(labels, "classes factorised", len(labels)):
            rows = source.of(label)[0].flatten(0, 1).to(task.device)
            found.append(factors_of(task.config, rows, label, task.seed, min(task.config.bank, *rows.shape)).P[0])
        return torch.cat(found)

    @torch.no_grad()
    def fit(self, task: FitContext) -> ClassifierWithRemainder:
        """Choose each class's basis from the bank.

        Raises:
            CellError: if a class has no image, or features that are not finite or all zero.
        """
        black_box: Any = task.black_box
        bank = self.bank(task).double()
        # Each direction less its mean over the channels: without it all share that of a last ReLU's features.
        bank = nn.functional.normalize(bank - bank.mean(1, keepdim=True), dim=1)
        head = black_box.eval().head
        rows = head.weight.detach()[: task.train.classes].double()
        chosen = greedy_basis(bank, rows, self.per_class(task))
        basis = bank[chosen]
        # Coefficients by least squares, not the projections of the search, whose directions were orthogonal.
        coefficients = torch.einsum("cd,cdk->ck", rows, torch.linalg.pinv(basis))
        vectors = coefficients[:, :, None] * basis
        left = (rows - vectors.sum(1)).norm(dim=1) / rows.norm(dim=1)
        task.facts["residual_share"] = float(left.mean())
        task.facts["negative_share"] = 100 * float((coefficients < 0).double().mean())
        return _model(black_box.backbone, head.weight, head.bias, vectors)


class IBDKeypoints(IBD):
    """Concepts that are the annotated parts: linear classifiers of the cells that contain a key-point.

    Their supervision is that of the consistency metric, and other methods here have none.
    """

    name = "ibd-keypoints"
    paper = f"{IBD.paper}; concepts from part key-points"
    needs = frozenset({"keypoints"})

    class Config(Settings):
        """Settings of the basis.

        Attributes:
            k: concepts of each class, at most as many as the data set has parts.
            ridge: regularisation of the part classifiers, relative to the mean variance of a channel.
        """

        k: PositiveInt = 7
        # Of 0.001 to 1000 the best on the other half of cub50's training images (8 % of a target's variance).
        ridge: NonNegativeFloat = 0.1

    def per_class(self, task: FitContext) -> int:
        """Return the number of concepts of each class, at most one for each part."""
        return min(task.config.k, len(task.train.parts))

    @torch.no_grad()
    def bank(self, task: FitContext) -> Tensor:
        """Fit a linear classifier of each part's cells by least squares (published: by steps, through a sigmoid)."""
        black_box: Any = task.black_box
        train = task.train
        squares, sums, products, hits, count = 0.0, 0.0, 0.0, 0.0, 0
        batches = train.batches(_BATCH, task.device)
        for batch in task.progress.track(batches, "batches for part classifiers", -(-len(train) // _BATCH)):
            features, index = black_box.backbone(batch.images), batch.index.cpu()
            grid = (features.shape[2], features.shape[3])
            there = part_cells(train.keypoints[index], train.visible[index], train.size, grid).to(features)
            x, y = (values.movedim(1, 0).flatten(1) for values in (features, there))
            # Sums over all batches in double precision: covariances are differences of large numbers.
            squares, products = squares + (x @ x.T).double(), products + (x @ y.T).double()
            sums, hits, count = sums + x.double().sum(1), hits + y.double().sum(1), count + x.shape[1]
        return part_directions(squares / count, sums / count, products / count, hits / count, task.config.ridge)


def part_cells(keypoints: Tensor, visible: Tensor, size: int, grid: tuple[int, int]) -> Tensor:
    """Return which cells contain a part's visible key-point: bool ``(N, parts, h, w)``.

    Args:
        keypoints: ``(N, parts, 2)`` row and column in pixels.
        visible: bool ``(N, parts)``.
        size: side of the images in pixels.
        grid: rows and columns of cells.
    """
    cells = torch.stack([(keypoints[..., i] * grid[i] / size).long().clamp(0, grid[i] - 1) for i in (0, 1)])
    hot = nn.functional.one_hot(cells[0] * grid[1] + cells[1], grid[0] * grid[1]).bool()
    return (hot & visible[..., None]).unflatten(2, grid)


def part_directions(squares: Tensor, mean: Tensor, products: Tensor, share: Tensor, ridge: float) -> Tensor:
    """Return the weights of linear least squares with a constant term, from means over the cells, ``(parts, D)``.

    Args:
        squares: of ``x x^T``, ``(D, D)``.
        mean: of the features x ``(D,)``.
        products: of ``x y^T`` with the targets y, 0 or 1, ``(D, parts)``.
        share: of the targets ``(parts,)``.
        ridge: regularisation relative to the mean variance of a channel.
    """
    # Centred, which is the constant term of least squares.
    covariance = squares - mean[:, None] * mean
    covariance = covariance + ridge * covariance.diagonal().mean().clamp(min=1e-30) * torch.eye(len(mean)).to(mean)
    return torch.linalg.solve(covariance, products - mean[:, None] * share).T


def greedy_basis(bank: Tensor, rows: Tensor, k: int) -> Tensor:
    """Choose each row's concepts one after the other, as the published code does.

    A step takes the concept of the largest signed product with the row, after the concepts are made orthogonal to the
    chosen ones and of length one again.

    Args:
        bank: unit concepts ``(M, D)``.
        rows: ``(C, D)``.
        k: concepts of each row, at most M.

    Returns:
        Rows of the bank ``(C, k)``. Beyond the rank of the bank they repeat others' directions.

    Example:
        >>> greedy_basis(torch.eye(3), torch.tensor([[0.0, 2.0, 3.0]]), 2).tolist()
        [[2, 1]]
    """
    chosen: list[Tensor] = []
    covered = rows.new_zeros(len(rows), len(bank))  # squared length of each concept within the chosen ones
    product, free = rows @ bank.T, torch.ones_like(covered, dtype=torch.bool)
    basis: list[Tensor] = []
    for _ in range(k):
        left = (1 - covered).clamp(min=0)
        score = torch.where(left > _PARALLEL, product / left.clamp(min=_PARALLEL).sqrt(), -torch.finfo(rows.dtype).max)
        best = torch.where(free, score, -torch.inf).argmax(1)
        direction = bank[best]
        for one in basis * 2:  # Gram-Schmidt twice, so that rounding leaves nothing
            direction = direction - (direction * one).sum(1, keepdim=True) * one
        direction = nn.functional.normalize(direction, dim=1)
        along = direction @ bank.T
        product = product - (direction * rows).sum(1, keepdim=True) * along
        covered, basis, chosen = covered + along.square(), [*basis, direction], [*chosen, best]
        free = free.scatter(1, best[:, None], False)
    return torch.stack(chosen, 1)


def _model(backbone: nn.Module, weight: Tensor, bias: Tensor, vectors: Tensor) -> ClassifierWithRemainder:
    owned = torch.eye(len(vectors), len(bias), dtype=torch.bool, device=vectors.device)
    owned = owned.repeat_interleave(vectors.shape[1], 0)
    return ClassifierWithRemainder(backbone, weight, bias, owned, vectors.flatten(0, 1), owned).eval()
