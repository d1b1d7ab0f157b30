"""Shared parts of prototype networks: add-on layers, distances, similarities, loss terms.

Shapes: latent features z ``(N, D, h, w)``, prototypes ``(P, D, 1, 1)``, maps ``(N, P, h, w)``. Sources of the formulas:
``model.py`` and ``train_and_test.py`` of cfchen-duke/ProtoPNet (Chen et al., NeurIPS 2019) and of
JackeyWang96/TesNet (Wang et al., ICCV 2021).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import Explanation, PartPrototypeModel, PrototypeTable
from bench.core.part_model import shapley_of_maxima

EPSILON = 1e-4


def add_on(channels: int, depth: int, convolutions: int = 2) -> nn.Sequential:
    """Return 1x1 convolutions to ``depth`` channels with ReLU between and a sigmoid after them."""
    layers = nn.Sequential(nn.Conv2d(channels, depth, 1))
    for _ in range(convolutions - 1):
        layers.extend((nn.ReLU(), nn.Conv2d(depth, depth, 1)))
    layers.append(nn.Sigmoid())
    return initialised(layers)


def initialised(layers: nn.Sequential) -> nn.Sequential:
    """Draw the weights of new convolutions as the official networks do, and return the layers."""
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            # As `_initialize_weights` of ProtoPNet's `model.py`: fan-out, and no bias at first.
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return layers


def class_identity(classes: int, per_class: int) -> Tensor:
    """Return the table of prototypes by class, bool ``(P, C)``: prototype j speaks for class ``j // per_class``.

    Example:
        >>> class_identity(2, 2).int().tolist()
        [[1, 0], [1, 0], [0, 1], [0, 1]]
    """
    return torch.eye(classes, dtype=torch.bool).repeat_interleave(per_class, 0)


def class_connection(identity: Tensor, own: float = 1.0, other: float = -0.5) -> nn.Linear:
    """Return the last layer, without bias: weight ``own`` from a class's prototypes, ``other`` from the rest."""
    layer = nn.Linear(identity.shape[0], identity.shape[1], bias=False)
    # The defaults 1 and -0.5 are the official ones (Chen et al. 2019, section 2.2).
    with torch.no_grad():
        layer.weight.copy_(torch.where(identity.T, own, other))
    return layer


def squared_distances(z: Tensor, prototypes: Tensor) -> Tensor:
    """Compute the squared Euclidean distance of every cell to every prototype, not below zero: ``(N, P, h, w)``."""
    # The difference of large squares is compared with an epsilon of 1e-4: bfloat16 products would drown it.
    with torch.autocast(z.device.type, enabled=False):
        return _squared_distances(at_least_single(z), at_least_single(prototypes))


def _squared_distances(z: Tensor, prototypes: Tensor) -> Tensor:
    # |z - p|^2 = |z|^2 - 2 z p + |p|^2, so that the cross term is one convolution; rounding may leave it below zero.
    zz = z.square().sum(1, keepdim=True)
    pp = prototypes.square().sum((1, 2, 3))[:, None, None]
    return nn.functional.relu(zz - 2 * nn.functional.conv2d(z, prototypes) + pp)


def at_least_single(x: Tensor) -> Tensor:
    """Convert to single precision, but leave double as it is: axioms are measured on heads in double."""
    return x if x.dtype == torch.float64 else x.float()


def log_similarity(distance: Tensor) -> Tensor:
    """Compute ``log((d + 1) / (d + eps))``, large for small distances (Chen et al. 2019, section 2.1).

    Example:
        >>> round(float(log_similarity(torch.tensor(0.0))), 4)
        9.2103
    """
    return torch.log((distance + 1) / (distance + EPSILON))


def unit(prototypes: Tensor) -> Tensor:
    """Divide prototypes by their length over the channels."""
    return nn.functional.normalize(prototypes, dim=1)


def projections(z: Tensor, prototypes: Tensor) -> Tensor:
    """Compute the inner product of every cell, unnormalised, with every prototype at length one: ``(N, P, h, w)``."""
    return nn.functional.conv2d(z, unit(prototypes))


def cosines(z: Tensor, projected: Tensor) -> Tensor:
    """Compute the cosines between cells and prototypes from z and its :func:`projections`: ``(N, P, h, w)``."""
    # 1e-12 as in `torch.nn.functional.normalize`, so that a cell of zeros has a cosine of 0.
    return projected / z.norm(dim=1, keepdim=True).clamp(min=1e-12)


def class_weights(weight: Tensor, classes: Tensor) -> Tensor:
    """Return rows of weights ``(C, P)`` for ``classes (N,)``, or their combinations for ``(N, C)``: ``(N, P)``."""
    return weight[classes] if classes.ndim == 1 else classes.to(weight) @ weight


def at_maxima(maps: Tensor, weights: Tensor, scores: Tensor | None = None) -> Tensor:
    """Compute exact contributions to a logit ``sum_j w_j max m_j``: each term in the first cell that has the maximum.

    Args:
        maps: ``(N, P, h, w)``.
        weights: ``(N, P)``.
        scores: ``(N, P)`` in place of the maxima themselves, for logits ``sum_j w_j score_j``.

    Returns:
        ``(N, h, w)``.
    """
    top, location = maps.flatten(2).max(2)
    values = weights * (top if scores is None else scores)
    # A maximum depends on one cell: the whole term is its, and nothing the others'.
    terms = torch.zeros_like(maps).flatten(2).scatter_(2, location[:, :, None], values[:, :, None])
    return terms.sum(1).unflatten(1, maps.shape[2:])


def cluster_and_separation(nearest: Tensor, labels: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean smallest distance to a prototype of the image's class, and to one of another class.

    Args:
        nearest: ``(N, P)``, smallest distance over the cells.
        labels: ``(N,)``.
        identity: bool ``(P, C)``.
    """
    of_class = identity.T[labels]
    # Official: max_dist - max(max_dist - d) over own prototypes, which is the smallest d while d < max_dist.
    cluster = nearest.masked_fill(~of_class, torch.inf).amin(1).mean()
    separation = nearest.masked_fill(of_class, torch.inf).amin(1).mean()
    return cluster, separation


def foreign_weight(last_layer: nn.Linear, identity: Tensor) -> Tensor:
    """Compute the L1 norm of the last layer's weights between a class and the prototypes of others."""
    # |W o (1 - identity^T)|_1: weights to the own class cost nothing (`train_and_test.py` of ProtoPNet).
    return (last_layer.weight * ~identity.T).abs().sum()


def orthonormality(bases: Tensor) -> Tensor:
    """Compute the sum of the absolute entries of ``B B^T - I``, 0 for classes with an orthonormal basis.

    Args:
        bases: ``(C, K, D)``, one vector a row.
    """
    # Double precision is left alone by autocast.
    rows = bases.double()
    identity = torch.eye(bases.shape[1], dtype=rows.dtype, device=rows.device)
    # Sum of |B B^T - I| over entries, not the squared norm: `train_and_test.py` of TesNet; B is not normalised.
    return (rows @ rows.mT - identity).abs().sum().to(bases.dtype)


class MaximaModel(PartPrototypeModel):
    """Network whose logits are one linear layer, without bias, on the maxima of its presence maps.

    Subclasses set ``backbone``, ``prototypes`` and ``last_layer`` (or define ``weight``) and define :meth:`maps`.
    """

    mixes = True
    last_layer: nn.Linear

    @property
    def weight(self) -> Tensor:
        """Weights of the maxima in the logits ``(C, P)``."""
        return self.last_layer.weight

    def maps(self, features: Tensor) -> Tensor:
        """Compute the presence of every prototype in every cell ``(N, P, h, w)``, larger = more present."""
        raise TypeError(f"{type(self).__name__} defines no maps")

    def counted(self, maps: Tensor) -> Tensor:
        """Return maps whose maxima are the scores: none of their values falls where the presence rises."""
        return maps

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits alone."""
        return nn.functional.linear(self.counted(self.maps(features)).amax((2, 3)), self.weight)

    def prototype_logits(self, features: Tensor) -> Tensor:
        """Return the logits without the terms of other classes' prototypes."""
        own = torch.where(self.prototypes.classes.T, self.weight, 0.0)
        return nn.functional.linear(self.counted(self.maps(features)).amax((2, 3)), own)

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return the maps, their maxima as scores."""
        maps = self.maps(features)
        scores = self.counted(maps).amax((2, 3))
        logits = nn.functional.linear(scores, self.weight)
        if classes is None:
            return Explanation(logits, maps, scores)
        indices = self.prototypes.of(classes)
        return Explanation(logits, self.pick(maps, indices), self.pick(scores, indices), indices)

    def connections(self, prototypes: Tensor) -> Tensor:
        """Return the columns of the weights."""
        return self.weight.T[prototypes]

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the displayed map: presence maps weighted by the class's row of the weights."""
        return torch.einsum("nphw,np->nhw", self.maps(features), class_weights(self.weight, classes))

    def contributions(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return each prototype's whole term in the first cell of its largest presence."""
        return at_maxima(self.counted(self.maps(features)), class_weights(self.weight, classes))

    def shapley(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the Shapley values of the maxima."""
        return shapley_of_maxima(self.counted(self.maps(features)), class_weights(self.weight, classes))


_GROUPS = {
    "backbone": "backbone",
    "add_on": "add_on_layers",
    "prototypes": "prototype_vectors",
    "presence": "proto_presence",
    "offsets": "conv_offset",
    "last_layer": "last_layer",
}


def parameter_groups(model: Any) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of a network by the names in schedules; a group that it does not have is left out."""
    parts = {name: getattr(model, attribute, None) for name, attribute in _GROUPS.items()}
    return {
        name: [part] if isinstance(part, nn.Parameter) else list(part.parameters())
        for name, part in parts.items()
        if part is not None
    }


def forget_sources(vectors: Tensor, table: PrototypeTable) -> None:
    """Clear the sources of prototypes that learn: after a step they are training patches no longer."""
    # A step changes every prototype that has a gradient, so a projected one is no patch of an image any more.
    if vectors.requires_grad:
        table.source_image.fill_(-1)
        table.source_patch.fill_(-1)
