"""Part-prototype model: table of prototypes, explanation of images, and the interface of every fitted method."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.core.errors import NotApplicable


class PrototypeTable(nn.Module):
    """Classes and source of each of P prototypes.

    Args:
        classes: bool ``(P, C)``, true for the classes that a prototype belongs to.
        vectors: ``(P, ...)``, or ``None`` if the method has none.

    The sources (index of the training image, row and column of its latent patch; -1 = none) are filled by
    methods that project their prototypes onto training patches.
    """

    classes: Tensor
    vectors: Tensor | None
    source_image: Tensor
    source_patch: Tensor
    _widest: tuple[Tensor, int, int] | None = None

    def __init__(self, classes: Tensor, vectors: Tensor | None = None) -> None:
        super().__init__()
        # Buffers: they are stored with the model's weights and move to its device.
        self.register_buffer("classes", classes.bool())
        self.register_buffer("vectors", vectors)
        self.register_buffer("source_image", torch.full((len(classes),), -1, dtype=torch.long))
        self.register_buffer("source_patch", torch.full((len(classes), 2), -1, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.classes)

    def of(self, classes: Tensor) -> Tensor:
        """Return the prototypes' rows of each of N classes: ``(N,) -> (N, K)``, padded with -1 on the right."""
        member, width = self.classes.T[classes], self._width()
        # A stable sort keeps the table's order and moves the prototypes of the class to the front.
        order = torch.sort(member.to(torch.uint8), dim=1, descending=True, stable=True).indices[:, :width]
        return torch.where(member.gather(1, order), order, -1)

    def _width(self) -> int:
        """Return the number of prototypes of the largest class."""
        # Kept while the table is the same tensor without further writes: reading it from a GPU waits for the device.
        state = (self.classes, 0 if self.classes.is_inference() else self.classes._version)
        if self._widest is None or self._widest[0] is not state[0] or self._widest[1] != state[1]:
            self._widest = (*state, int(self.classes.sum(0).max()) if self.classes.numel() else 0)
        return self._widest[2]


@dataclass(frozen=True)
class Explanation:
    """Logits and presence maps of a batch of N images.

    Attributes:
        logits: ``(N, C)``.
        maps: ``(N, P, h', w')``, one presence map per prototype, larger = more present. If requested for
            ``classes``, ``(N, K, h', w')``: the prototypes of each image's class, padded.
        scores: ``(N, P)`` or ``(N, K)``, the inputs of the class weights.
        indices: ``(N, K)`` row of the prototype table behind each map, -1 for padding; ``None``: all, in order.
    """

    logits: Tensor
    maps: Tensor
    scores: Tensor
    indices: Tensor | None = None


class PartPrototypeModel(nn.Module, ABC):
    """Fitted method: ``backbone`` (images -> features) and ``head`` (features -> explanation).

    Subclasses set ``backbone`` and ``prototypes`` and define :meth:`head` and :meth:`attribute`. Optional members let
    axioms be measured: ``mixes`` (:meth:`attribute` also takes weights ``(N, C)`` for a combination of logits),
    ``apart`` (the reason why cells do not all play the same role, if so), ``not_additive`` (the reason why no axiom of
    attribution has a meaning for its logits, if so), :meth:`contributions`, :meth:`shapley`, :meth:`connections`,
    :meth:`offset`. Also optional: :meth:`prototype_logits`, and ``border``: the number of rings of cells at the edge of
    its maps that always look partly beyond the image.
    """

    backbone: nn.Module
    prototypes: PrototypeTable
    mixes: ClassVar[bool] = False
    apart: ClassVar[str] = ""
    not_additive: ClassVar[str] = ""
    border: int = 0

    @abstractmethod
    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return the explanation of features ``(N, D, h, w)``: all prototypes, or only those of ``classes (N,)``."""

    @abstractmethod
    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the attribution map that the method shows for the logit of ``classes (N,)``: ``(N, h', w')``."""

    def contributions(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the exact contribution of each cell to the logit of ``classes (N,)``: ``(N, h, w)``."""
        raise NotApplicable(self.not_additive or "its logits are no sums of contributions of cells")

    def shapley(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the Shapley value of each cell for the logit of ``classes (N,)``: ``(N, h, w)``.

        Of a head that adds up its cells, they are the contributions.
        """
        raise NotApplicable(self.not_additive or "its logits are no sums over cells or of maxima over them")

    def connections(self, prototypes: Tensor) -> Tensor:
        """Return the weights of the scores of ``prototypes (N, K)`` in all logits ``(N, K, C)``; of padding, any.

        The logits of a model that has them are their sums over all prototypes, plus what does not depend on scores.
        """
        raise NotApplicable(self.not_additive or "its logits are no weighted sums of its prototypes' scores")

    def offset(self, classes: Tensor) -> Tensor:
        """Return the part of the logits of ``classes (N,)`` that belongs to no cell, such as a bias: ``(N,)``."""
        return torch.zeros(len(classes), device=classes.device)

    def prototype_logits(self, features: Tensor) -> Tensor:
        """Return what the prototypes of each class carry of its logit by themselves, with the offset: ``(N, C)``."""
        raise NotApplicable(self.not_additive or "its prototypes do not say which part of a logit they carry")

    def cell_numbers(self, channels: int) -> int:
        """Return how many numbers :meth:`logits` holds at a time for each cell of the features."""
        # Four copies of the features and of the prototypes' maps, as distances and their powers take.
        return 4 * channels + 4 * max(1, len(self.prototypes))

    def logits(self, features: Tensor) -> Tensor:
        """Return class scores ``(N, C)`` of features, for callers that need no maps."""
        return self.head(features).logits

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, C)`` of normalised images ``(N, 3, H, W)``."""
        return self.logits(self.backbone(images))

    def explain(self, images: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return logits and presence maps of images ``(N, 3, H, W)``; with ``classes (N,)``, of those classes only."""
        return self.head(self.backbone(images), classes)

    def pick(self, values: Tensor, indices: Tensor) -> Tensor:
        """Select ``(N, K, ...)`` of ``values (N, P, ...)`` by padded rows ``indices (N, K)``; padding gives zeros."""
        # Padded rows (-1) are read as row 0, for gather takes no negative index, and then set to zero.
        shape = indices.shape + (1,) * (values.ndim - 2)
        chosen = values.gather(1, indices.clamp(min=0).reshape(shape).expand(*indices.shape, *values.shape[2:]))
        return chosen * (indices >= 0).reshape(shape)


class Derived:
    """Tensor that follows from others, computed again only after one of them was replaced or written to."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[Tensor, ...], tuple[int, ...], Tensor] | None = None

    def of(self, terms: tuple[Tensor, ...], compute: Callable[[], Tensor]) -> Tensor:
        """Return ``compute()``, which follows from ``terms``."""
        versions = tuple(tensor._version for tensor in terms)  # torch raises it with each write in place
        if self._kept is None or self._kept[1] != versions or any(map(operator.is_not, self._kept[0], terms)):
            self._kept = terms, versions, compute()
        return self._kept[2]


def shapley_of_maxima(maps: Tensor, weights: Tensor) -> Tensor:
    """Compute the Shapley values of the cells for a logit ``sum_j w_j max m_j``, which they sum to.

    The game of a map is worth its maximum over the cells that are present, 0 without any. Its highest cell has the
    largest value, and equal cells have equal ones. Wolf et al., Keep the Faith, AAAI 2024, estimate such values for
    pixels; of the maximum over cells they are known in closed form, in O(n log n) for n cells.

    Args:
        maps: ``(N, P, h, w)``.
        weights: ``(N, P)``.

    Returns:
        ``(N, h, w)``.

    Example:
        >>> shapley_of_maxima(torch.tensor([[[[3.0, 1.0, 0.0]]]]), torch.ones(1, 1))
        tensor([[[2.5000, 0.5000, 0.0000]]])
    """
    rising, order = maps.flatten(2).sort(2)
    # The cell of rank i gets sum_{r <= i} (t_r - t_{r-1}) / (n - r + 1), t_0 = 0: cells that reach t_r share the step.
    steps = rising.diff(dim=2, prepend=torch.zeros_like(rising[:, :, :1]))
    sharing = torch.arange(rising.shape[2], 0, -1, device=maps.device)
    values = (steps / sharing).cumsum(2) * weights[:, :, None]
    return torch.zeros_like(values).scatter_(2, order, values).sum(1).unflatten(1, maps.shape[2:])
