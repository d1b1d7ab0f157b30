"""Operations of ProtoPool, a pool of prototypes that classes share through slots (Rymarczyk et al., ECCV 2022).

Shapes: the presence q ``(C, P, K)`` is, for each of the K slots of each of C classes, a distribution over the P
prototypes; distances ``(..., P)`` are those of an image to the pool. Source of the formulas: ``model.py`` and
``main.py`` of gmum/ProtoPool.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from baselines.layers import log_similarity

Mixing = Literal["factored", "literal"]

LAST_SCALE = 1e3
SCALE_OF_THE_CODE = 1e4
"""Factor of the presence in the official code's push, last-layer stage and final evaluation."""

_TEMPERATURE = 0.5


def gumbel_scale(epoch: int, epochs: int) -> float:
    """Return the factor of the presence in an epoch: 0 in the first, 1000 from ``epochs`` on, a square root between.

    Example:
        >>> gumbel_scale(0, 30), gumbel_scale(30, 30)
        (0.0, 1000.0)
    """
    # 1.3 sqrt((1000 / 1.3)^2 / T epoch) as published: its starting value 1.3 cancels.
    return LAST_SCALE * math.sqrt(min(epoch / epochs, 1.0))


def draw_presence(logits: Tensor, scale: float, generator: torch.Generator | None = None) -> Tensor:
    """Draw distributions over the pool ``(C, P, K)`` by Gumbel-softmax; at scale 0 return the plain softmax.

    Args:
        logits: the raw presence ``(C, P, K)``.
        scale: factor of the logits before the noise is added.
        generator: of the noise, on the device of ``logits``; ``None``: torch's default one.
    """
    if scale == 0:
        return logits.softmax(1)
    # Minus the logarithm of an exponential number is a Gumbel number; tau = 0.5 as in the official code.
    noise = torch.empty_like(logits).exponential_(generator=generator).log_().neg_()
    return ((logits * scale + noise) / _TEMPERATURE).softmax(1)


def mixup(images: Tensor, labels: Tensor, concentration: float) -> tuple[Tensor, Tensor, float]:
    """Blend images in pairs: return them, the partners' labels, and the first image's share (Zhang et al. 2018)."""
    if not concentration:
        return images, labels, 1.0
    share = float(torch.distributions.Beta(concentration, concentration).sample())
    partners = torch.randperm(len(images), device=images.device)
    return share * images + (1 - share) * images[partners], labels[partners], share


def mix(distances: Tensor, presence: Tensor, mixing: Mixing = "factored") -> Tensor:
    """Weight the pool's distances ``(..., P)`` by the presence ``(C, P, K)``: those of the slots ``(..., C, K)``."""
    # As in layers.squared_distances: distances are compared with an epsilon of 1e-4, which bfloat16 would drown.
    with torch.autocast(distances.device.type, enabled=False):
        if mixing == "literal":
            return (distances[..., None, :, None] * presence).sum(-2)
        # One product of matrices (N, P) and (P, C K): no array of N C P K numbers is ever allocated.
        return torch.einsum("...p,cpk->...ck", distances, presence)


def orthogonality(logits: Tensor, mixing: Mixing = "factored") -> Tensor:
    """Compute the mean over slots of the summed cosines between a slot's raw presence and the others of its class."""
    classes, _, slots = logits.shape
    if mixing == "literal":
        total = nn.functional.cosine_similarity(logits[:, :, None], logits[..., None], dim=1).sum()
    else:
        # The sum over all pairs of unit vectors is the squared length of their sum: no array of C P K K numbers.
        total = nn.functional.normalize(logits, dim=1).sum(2).square().sum()
    # Minus 1: each slot's cosine with itself, one for each of the C K slots.
    return total / (classes * slots) - 1


def most_present(presence: Tensor) -> Tensor:
    """Find the K prototypes with the largest presence in a class's slots together: bool ``(P, C)``, without a gradient.

    The P - K prototypes of the separation term, with the largest absence, are the others.
    """
    total = presence.detach().sum(2)
    # Official: the K largest of sum_k q for the cluster term, the P - K largest of sum_k (1 - q) for separation.
    top = total.topk(presence.shape[2], dim=1).indices
    return torch.zeros_like(total, dtype=torch.bool).scatter(1, top, True).T


def focal_similarity(nearest: Tensor, average: Tensor) -> Tensor:
    """Compute the log similarity of the smallest distance minus that of the mean distance."""
    # A prototype that is near everywhere shows nothing: its mean distance is small too, and cancels (focal similarity).
    return log_similarity(nearest) - log_similarity(average)
