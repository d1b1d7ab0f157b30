"""CRAFT (Fel et al., CVPR 2023): concepts from crops of the training images, ranked by Sobol's total index.

Crops, factorisation and ranking after deel-ai/Craft. The published ranking samples masks of the codes; for a logit that
is linear in the codes, as after average pooling, the index is known in closed form (:func:`total_indices`).
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from baselines.dff import ConceptConfig, ConceptMethod, codes
from bench.contract import FitContext
from bench.core.seeding import derive
from bench.posthoc.feature_source import BackboneFeatures
from bench.posthoc.solvers.init import Init
from bench.posthoc.solvers.nmf import Solver

_CANVAS = 224
_BATCH = 8


class CRAFT(ConceptMethod):
    """Concepts from crops of a class's training images, the most important first.

    The index squares a contribution: a concept that speaks against its class ranks as high as one that speaks for it.
    The fact ``first_negative`` is the share of classes in which such a concept is first, in percent.
    """

    name = "craft"
    paper = "Fel et al., CRAFT: Concept Recursive Activation FacTorization for Explainability, CVPR 2023"

    class Config(ConceptConfig):
        """Settings of the factorisation, which is scikit-learn's in the published code (coordinate descent), and crops.

        Attributes:
            patch: side of a crop in pixels of an image of 224; crops begin every 0.8 sides.
            images_per_class: images of a class that are cut, drawn from the seed; ``None``: all. Each of the 16 crops
                of an image is a pass through the backbone.
        """

        nmf_solver: Solver = "hals"
        nmf_init: Init = "nndsvd"
        patch: PositiveInt = 64
        images_per_class: PositiveInt | None = None

    def examples(self, task: FitContext, source: BackboneFeatures, label: int) -> Tensor:
        """Return the averaged features of the class's crops, negative ones as zero."""
        black_box: Any = task.black_box
        index = (task.train.labels == label).nonzero().flatten()
        if task.config.images_per_class is not None:
            drawn = torch.randperm(
                len(index), generator=torch.Generator().manual_seed(derive(task.seed, "craft", label))
            )
            index = index[drawn[: task.config.images_per_class]].sort().values
        backbone = black_box.backbone
        found = []
        for batch in task.train.batches(_BATCH, task.device, index=index):
            for part in crops(batch.images, task.config.patch).split(4 * _BATCH):
                # The class's forward: a store of features would keep crops, which no other cell looks at.
                found.append(type(backbone).forward(backbone, part).float().clamp(min=0).mean((2, 3)))
        return torch.cat(found)

    def ranked(self, concepts: Tensor, shares: Tensor, source: BackboneFeatures, label: int) -> Tensor:
        """Return the order of falling importance, the mean index over the class's training images."""
        cells = source.of(label)[0].to(concepts).clamp(min=0)
        # g_i of an image: its mean code times the share; the ranking ignores the sign, as published.
        presence = codes(concepts[None], cells.flatten(0, 1).T)[0].unflatten(1, cells.shape[:2]).mean(2)
        return total_indices((presence * shares[:, None]).T).mean(0).argsort(descending=True, stable=True)


def crops(images: Tensor, patch: int) -> Tensor:
    """Cut images into squares, 0.8 sides apart, and enlarge each to the size of the image.

    Args:
        images: ``(N, 3, size, size)``.
        patch: side in pixels of an image of 224; at 64 there are 16 crops of an image.

    Returns:
        ``(N m, 3, size, size)``, image by image, row by row.

    Example:
        >>> crops(torch.zeros(2, 3, 224, 224), 64).shape
        torch.Size([32, 3, 224, 224])
    """
    size = images.shape[-1]
    side = max(1, min(size, round(patch * size / _CANVAS)))
    # int(0.8 * 64) = 51 pixels, as in the published code.
    step = max(1, int(0.8 * side))
    cut = images.unfold(2, side, step).unfold(3, side, step).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    return nn.functional.interpolate(cut, (size, size), mode="bilinear", align_corners=False)


def total_indices(contributions: Tensor) -> Tensor:
    """Compute Sobol's total indices of concepts whose masks, uniform in 0 to 1, multiply their contributions.

    The logit ``sum_i m_i g_i + b`` has no interactions, so that a concept's index is its share of the variance,
    ``g_i^2 / sum_j g_j^2``: what Jansen's estimate of the published code tends to.

    Args:
        contributions: g of each concept ``(N, k)``.

    Returns:
        ``(N, k)``, zeros if all contributions are zero.

    Example:
        >>> total_indices(torch.tensor([[3.0, -4.0]])).tolist()
        [[0.36000001430511475, 0.6399999856948853]]
    """
    square = contributions.square()
    return square / square.sum(1, keepdim=True).clamp(min=torch.finfo(square.dtype).tiny)
