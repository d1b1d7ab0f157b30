"""Black box whose logits are the contributions of a few prototypes and an explicit remainder.

The common part of the post-hoc methods that show a part of each logit: EPIC, DFF, CRAFT and IBD. In each of the HW
cells u, prototype j contributes ``share_jc m_j(u) / HW`` to the logit of class c, m_j being its map, and the remainder
what is then missing from the exact contribution ``<x_u, v_c> / HW`` of the cell. The logits are the black box's, so
that accuracy says nothing about such a method: ``reconstruction`` measures what the prototypes reach by themselves.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.contract import CellError, Explanation, FitContext, Method, PartPrototypeModel, PrototypeTable, Sizes
from bench.posthoc.feature_source import BackboneFeatures
from bench.posthoc.method import check_rank


class ClassifierWithRemainder(PartPrototypeModel):
    """Black box with prototypes whose maps are ``<x_u, p_j>``; other maps are for subclasses.

    Args:
        backbone: feature extractor of the black box.
        weight: of its last layer ``(C + A, D)``: C classes of the data set and A others whose logits count.
        bias: ``(C + A,)``.
        classes: classes of each prototype, bool ``(P, C + A)``.
        vectors: ``(P, D)``.
        shares: weight of a prototype's map in the logits of its classes ``(P, C + A)``, 0 in those of others.
    """

    shared: ClassVar[bool] = False
    """Whether a prototype may have several classes, so that its score is no contribution to one of them."""
    weight: Tensor
    bias: Tensor
    shares: Tensor

    def __init__(
        self, backbone: nn.Module, weight: Tensor, bias: Tensor, classes: Tensor, vectors: Tensor, shares: Tensor
    ) -> None:
        super().__init__()
        self.backbone = backbone
        # In float64, so that what adds up to a row of the classifier does so to the last bits of float32.
        self.prototypes = PrototypeTable(classes, vectors.double())
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())
        self.register_buffer("shares", torch.where(classes, shares.double(), 0.0))

    def rows(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the vectors of prototypes ``(N, K)``, zeros for padding: ``(N, K, D)``."""
        assert self.prototypes.vectors is not None
        return (self.prototypes.vectors[indices.clamp(min=0)] * (indices >= 0)[:, :, None]).to(dtype)

    def maps(self, features: Tensor, indices: Tensor | None = None) -> Tensor:
        """Compute the maps of all prototypes ``(N, P, h, w)``, or of those of ``indices (N, K)``: ``(N, K, h, w)``."""
        assert self.prototypes.vectors is not None
        if indices is None:
            return torch.einsum("ndhw,pd->nphw", features, self.prototypes.vectors.to(features.dtype))
        return (self.rows(indices, features.dtype) @ features.flatten(2)).unflatten(2, features.shape[2:])

    def means(self, features: Tensor) -> Tensor:
        """Compute the mean of every map ``(N, P)``."""
        assert self.prototypes.vectors is not None
        return features.mean((2, 3)) @ self.prototypes.vectors.to(features.dtype).T

    def logits(self, features: Tensor) -> Tensor:
        """Compute the logits of the black box, by the same operations."""
        return nn.functional.linear(features.to(self.bias.dtype).mean((2, 3)), self.weight, self.bias)

    def prototype_logits(self, features: Tensor) -> Tensor:
        """Compute the logits without the remainder: contributions of each class's own prototypes, and the bias."""
        means = self.means(features.to(self.bias.dtype))
        # Shares are 0 in the logits of other classes, so that each class has its own prototypes alone.
        return means @ self.shares.to(means.dtype) + self.bias

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return the maps; as scores their means, times a prototype's share in the logit of its class if it has one."""
        features = features.to(self.bias.dtype)
        indices = None if classes is None else self.prototypes.of(classes)
        maps = self.maps(features, indices)
        scores = maps.mean((2, 3))
        if not self.shared:
            own = self.shares.sum(1).to(maps.dtype)
            scores = scores * (own if indices is None else own[indices.clamp(min=0)])
        return Explanation(self.logits(features), maps, scores, indices)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Compute the displayed map: the contributions of the class's prototypes, without the remainder."""
        features = features.to(self.bias.dtype)
        indices = self.prototypes.of(classes)
        shares = self.shares[indices.clamp(min=0), classes[:, None]] * (indices >= 0)
        maps = self.maps(features, indices)
        return torch.einsum("nkhw,nk->nhw", maps, shares.to(maps.dtype)) / maps[0, 0].numel()

    def contributions(self, features: Tensor, classes: Tensor) -> Tensor:
        """Compute the exact contribution of each cell, the remainder's included."""
        rows = self.weight[classes].to(features.dtype)
        # <x_u, v_c> / HW: an average and a linear layer, so that cells and the bias add up to the logit.
        return torch.einsum("ndhw,nd->nhw", features, rows) / features[0, 0].numel()

    shapley = contributions

    def remainder(self, features: Tensor, classes: Tensor) -> Tensor:
        """Compute what the prototypes leave of each cell's contribution ``(N, h, w)``."""
        return self.contributions(features, classes) - self.attribute(features, classes)

    def offset(self, classes: Tensor) -> Tensor:
        """Return the bias of the classes."""
        return self.bias[classes]


class ExplanationMethod(Method):
    """Method that explains the black box and leaves it as it is."""

    needs_black_box = True

    @classmethod
    def keeps_its_backbone(cls, config: Any) -> bool:
        """Return true: it is the black box's."""
        return True

    @classmethod
    def check(cls, config: Any, sizes: Sizes) -> None:
        """Refuse a k above the rank of a class's feature matrix, of methods that have one."""
        if hasattr(config, "k"):
            check_rank(cls.name, config, sizes)


def empty_layer(task: FitContext, channels: int) -> tuple[Tensor, Tensor]:
    """Return zeros in the shapes of the black box's last layer, into which a saved one is loaded."""
    count = task.train.classes + task.absent_classes
    return torch.zeros(count, channels), torch.zeros(count)


def class_features(task: FitContext) -> BackboneFeatures:
    """Return the source of the black box's features of the training images, class by class.

    Raises:
        CellError: if a class has no image.
    """
    black_box: Any = task.black_box
    source = BackboneFeatures(black_box.eval().backbone, task.train, task.device)
    empty = [label for label in range(task.train.classes) if not source.count(label)]
    if empty:
        raise CellError(f"class {empty[0]} has no training image to find concepts in")
    return source
