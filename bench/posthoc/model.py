"""Decomposed classifier: the black box, with each row of its last layer written as a sum of k prototypes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.contract import Explanation, PartPrototypeModel, PrototypeTable
from bench.core.part_model import Derived


class DecomposedClassifier(PartPrototypeModel):
    """Model with the logits of the black box and a map ``x p~_i`` for each prototype (equation 8 of the paper).

    Args:
        backbone: feature extractor of the black box.
        vectors: refined prototypes of each class ``(C, k, D)``.
        bias: bias of the black box ``(C + A,)``. Equation 8 omits it; the logits need it.
        absent: rows ``(A, D)`` of classes that the data set does not have and whose logits count: they have no
            prototypes.
    """

    mixes = True
    bias: Tensor
    weights: Tensor
    absent: Tensor | None

    def __init__(self, backbone: nn.Module, vectors: Tensor, bias: Tensor, absent: Tensor | None = None) -> None:
        super().__init__()
        classes, k, _ = vectors.shape
        self.backbone = backbone
        self.k = k
        owner = torch.eye(classes, len(bias), dtype=torch.bool, device=vectors.device).repeat_interleave(k, 0)
        # In float64 the sum of the prototypes gives the classifier's float32 row back exactly.
        self.prototypes = PrototypeTable(owner, vectors.double().flatten(0, 1))
        self.register_buffer("bias", bias.detach().clone())
        self.register_buffer("weights", torch.ones(classes * k, dtype=torch.float64, device=vectors.device))
        # No tensor where there are none, so that models from before keep the names of their tensors.
        self.register_buffer("absent", absent if absent is not None and len(absent) else None)
        self._summed = Derived()

    @property
    def vectors(self) -> Tensor:
        """Prototypes ``(C, k, D)``, float64, each times its weight (1 without an intervention)."""
        return self._of(slice(None))

    def _of(self, classes: Tensor | slice) -> Tensor:
        """Return the prototypes of some classes ``(N, k, D)``."""
        # Chosen before they are multiplied: the table of 1,000 classes is much larger than the part for a batch.
        assert self.prototypes.vectors is not None
        vectors, weights = (t.unflatten(0, (-1, self.k)) for t in (self.prototypes.vectors, self.weights))
        return weights[classes][..., None] * vectors[classes]

    @property
    def rows(self) -> Tensor:
        """Weight of the classifier ``(C + A, D)`` in the bias's precision: sums of each class's prototypes (eq. 7)."""
        assert self.prototypes.vectors is not None

        def add_up() -> Tensor:
            rows = self.vectors.sum(1).to(self.bias.dtype)
            return rows if self.absent is None else torch.cat([rows, self.absent.to(rows)])

        # Kept, as every batch needs it.
        return self._summed.of((self.prototypes.vectors, self.weights, self.bias), add_up)

    def logits(self, features: Tensor) -> Tensor:
        """Compute ``Avg(x) v^T + b``, with v the sum of the prototypes."""
        return nn.functional.linear(features.to(self.bias.dtype).mean((2, 3)), self.rows, self.bias)

    def prototype_logits(self, features: Tensor) -> Tensor:
        """Compute the logits: the prototypes carry all of them."""
        return self.logits(features)

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Compute the maps ``x p~_i`` and, as scores, their means over the image."""
        features = features.to(self.bias.dtype)
        indices = None if classes is None else self.prototypes.of(classes)
        if classes is None:
            maps = torch.einsum("ndhw,pd->nphw", features, self.vectors.flatten(0, 1).to(features.dtype))
        else:
            chosen = self._of(classes).to(features.dtype)
            maps = (chosen @ features.flatten(2)).unflatten(2, features.shape[2:])
        return Explanation(self.logits(features), maps, maps.mean((2, 3)), indices)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Compute ``sum_i x p~_i / HW``: its sum over the locations plus the bias is the logit."""
        locations = features.shape[2] * features.shape[3]
        if classes.ndim == 1 and self.absent is None:
            return self.head(features, classes).maps.sum(1) / locations
        # A class without prototypes has its row's own map, which a prediction may ask for.
        mixed = self.rows[classes] if classes.ndim == 1 else classes.to(self.bias.dtype) @ self.rows
        return torch.einsum("ndhw,nd->nhw", features.to(mixed.dtype), mixed) / locations

    def contributions(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the displayed map: it is exact, because the head is an average and linear."""
        return self.attribute(features, classes)

    shapley = contributions

    def connections(self, prototypes: Tensor) -> Tensor:
        """Return 1 for the class of a prototype and 0 for the others: a score is its term of the logit."""
        return self.prototypes.classes[prototypes].to(self.bias.dtype)

    def offset(self, classes: Tensor) -> Tensor:
        """Return the bias of the classes."""
        return self.bias[classes]

    def reweighted(self, weights: Tensor) -> DecomposedClassifier:
        """Return a copy with each prototype's contribution times ``weights (P,)``; the backbone is shared.

        With weights other than 1 its logits differ from the black box's: an intervention (paper, appendix A).
        """
        assert self.prototypes.vectors is not None
        vectors = self.prototypes.vectors.unflatten(0, (-1, self.k))
        other = DecomposedClassifier(self.backbone, vectors, self.bias, self.absent)
        other.prototypes = self.prototypes
        other.weights = self.weights * weights.to(self.weights)
        return other.train(self.training)

    def without(self, prototypes: Sequence[int]) -> DecomposedClassifier:
        """Return a copy with the contributions of these prototypes (rows of the table) set to zero."""
        weights = torch.ones_like(self.weights)
        weights[list(prototypes)] = 0
        return self.reweighted(weights)
