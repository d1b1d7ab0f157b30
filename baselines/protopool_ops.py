"""The mathematics of a pool of prototypes that classes share through slots (spec/baselines.md, section 8).

Shapes: the presence q ``(C, P, K)`` says, for each of the K slots of each of C classes, how much of each of P
prototypes sits in it; distances ``(..., P)`` are those of an image to the pool.
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
"""What the official code multiplies the presence by in its push, its last-layer stage and its final evaluation."""

_TEMPERATURE = 0.5


def gumbel_scale(epoch: int, epochs: int) -> float:
    """What the presence is multiplied by in an epoch: 0 in the first, 1000 from ``epochs`` on, a square root between.

    >>> gumbel_scale(0, 30), gumbel_scale(30, 30)
    (0.0, 1000.0)
    """
    # 1.3 sqrt((1000 / 1.3)^2 / T epoch) as published: its starting value 1.3 cancels.
    return LAST_SCALE * math.sqrt(min(epoch / epochs, 1.0))


def draw_presence(logits: Tensor, scale: float, generator: torch.Generator | None = None) -> Tensor:
    """Distributions over the pool ``(C, P, K)``: Gumbel-softmax draws, or the plain softmax at scale 0.

    Args:
        logits: the raw presence ``(C, P, K)``.
        scale: multiplies it before the noise is added.
        generator: of the noise, on the device of ``logits``; ``None``: torch's default one.
    """
    if scale == 0:
        return logits.softmax(1)
    noise = torch.empty_like(logits).exponential_(generator=generator).log_().neg_()
    return ((logits * scale + noise) / _TEMPERATURE).softmax(1)


def mix(distances: Tensor, presence: Tensor, mixing: Mixing = "factored") -> Tensor:
    """Distances of the slots ``(..., C, K)``: those of the pool ``(..., P)`` weighted by the presence ``(C, P, K)``."""
    # As in layers.squared_distances: what is compared with an epsilon of 1e-4 is not rounded to bfloat16.
    with torch.autocast(distances.device.type, enabled=False):
        if mixing == "literal":
            return (distances[..., None, :, None] * presence).sum(-2)
        # One product of matrices (N, P) and (P, C K): nothing of the size N C P K is ever held.
        return torch.einsum("...p,cpk->...ck", distances, presence)


def orthogonality(logits: Tensor, mixing: Mixing = "factored") -> Tensor:
    """Mean over slots of the summed cosines between a slot's raw presence and the others of its class."""
    classes, _, slots = logits.shape
    if mixing == "literal":
        total = nn.functional.cosine_similarity(logits[:, :, None], logits[..., None], dim=1).sum()
    else:
        # The sum over all pairs of unit vectors is the squared length of their sum: nothing of size C P K K is held.
        total = nn.functional.normalize(logits, dim=1).sum(2).square().sum()
    return total / (classes * slots) - 1


def most_present(presence: Tensor) -> Tensor:
    """Bool ``(P, C)``: the K prototypes with the largest presence in a class's slots together, without a gradient.

    The P - K with the largest absence, which the separation term looks at, are the others.
    """
    total = presence.detach().sum(2)
    top = total.topk(presence.shape[2], dim=1).indices
    return torch.zeros_like(total, dtype=torch.bool).scatter(1, top, True).T


def focal_similarity(nearest: Tensor, average: Tensor) -> Tensor:
    """Log similarity of the smallest distance minus that of the mean distance: how local a prototype is."""
    return log_similarity(nearest) - log_similarity(average)
