"""The decomposed classifier: the black box, with each row of its last layer written as a sum of k prototypes."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.contract import Explanation, PartPrototypeModel, PrototypeTable


class DecomposedClassifier(PartPrototypeModel):
    """Same logits as the black box; its maps are ``x p~_i`` for each prototype (equation 8 of the paper).

    The prototypes are kept in float64, in which their sum gives the classifier's float32 row back exactly.

    Args:
        backbone: of the black box.
        vectors: ``(C, k, D)``, the refined prototypes of each class.
        bias: of the black box ``(C,)``. Equation 8 leaves it out; the logits need it.
    """

    mixes = True
    bias: Tensor
    weights: Tensor

    def __init__(self, backbone: nn.Module, vectors: Tensor, bias: Tensor) -> None:
        super().__init__()
        classes, k, _ = vectors.shape
        self.backbone = backbone
        self.k = k
        owner = torch.eye(classes, dtype=torch.bool, device=vectors.device).repeat_interleave(k, 0)
        self.prototypes = PrototypeTable(owner, vectors.double().flatten(0, 1))
        self.register_buffer("bias", bias.detach().clone())
        self.register_buffer("weights", torch.ones(classes * k, dtype=torch.float64, device=vectors.device))
        self._summed: tuple[tuple[Tensor, ...], tuple[int, ...], Tensor] = (), (), bias

    @property
    def vectors(self) -> Tensor:
        """The prototypes ``(C, k, D)``, float64, each times its weight (1 unless somebody intervened)."""
        return self._of(slice(None))

    def _of(self, classes: Tensor | slice) -> Tensor:
        """The prototypes of some classes ``(N, k, D)``: of 1,000 classes, the table is much more than a batch's."""
        assert self.prototypes.vectors is not None
        vectors, weights = (t.unflatten(0, (-1, self.k)) for t in (self.prototypes.vectors, self.weights))
        return weights[classes][..., None] * vectors[classes]

    @property
    def rows(self) -> Tensor:
        """The classifier's weight ``(C, D)`` in the bias's precision: the sum of each class's prototypes (eq. 7).

        Summed once, and again when the prototypes or weights have been replaced or written to.
        """
        assert self.prototypes.vectors is not None
        made_of = (self.prototypes.vectors, self.weights, self.bias)
        versions = tuple(tensor._version for tensor in made_of)
        tensors, before, found = self._summed
        if before != versions or any(map(operator.is_not, tensors, made_of)):
            found = self.vectors.sum(1).to(self.bias.dtype)
            self._summed = made_of, versions, found
        return found

    def logits(self, features: Tensor) -> Tensor:
        """``Avg(x) v^T + b``, with v the sum of the prototypes."""
        return nn.functional.linear(features.to(self.bias.dtype).mean((2, 3)), self.rows, self.bias)

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Maps ``x p~_i`` and their means over the image; see the contract."""
        features = features.to(self.bias.dtype)
        indices = None if classes is None else self.prototypes.of(classes)
        if classes is None:
            maps = torch.einsum("ndhw,pd->nphw", features, self.vectors.flatten(0, 1).to(features.dtype))
        else:
            chosen = self._of(classes).to(features.dtype)
            maps = (chosen @ features.flatten(2)).unflatten(2, features.shape[2:])
        return Explanation(self.logits(features), maps, maps.mean((2, 3)), indices)

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """``sum_i x p~_i / HW``: its sum over the cells plus the bias is the logit."""
        cells = features.shape[2] * features.shape[3]
        if classes.ndim == 1:
            return self.head(features, classes).maps.sum(1) / cells
        mixed = classes.to(self.bias.dtype) @ self.rows
        return torch.einsum("ndhw,nd->nhw", features.to(mixed.dtype), mixed) / cells

    def contributions(self, features: Tensor, classes: Tensor) -> Tensor:
        """What it displays is exact: the head is an average and linear."""
        return self.attribute(features, classes)

    def offset(self, classes: Tensor) -> Tensor:
        """The bias."""
        return self.bias[classes]

    def reweighted(self, weights: Tensor) -> DecomposedClassifier:
        """The same model with each prototype's contribution times ``weights (P,)``; it shares the backbone.

        With weights other than 1 its logits are no longer the black box's: that is the point of an intervention
        (paper, appendix A).
        """
        assert self.prototypes.vectors is not None
        other = DecomposedClassifier(self.backbone, self.prototypes.vectors.unflatten(0, (-1, self.k)), self.bias)
        other.prototypes = self.prototypes
        other.weights = self.weights * weights.to(self.weights)
        return other.train(self.training)

    def without(self, prototypes: Sequence[int]) -> DecomposedClassifier:
        """The same model with the contributions of these prototypes (rows of the table) set to zero."""
        weights = torch.ones_like(self.weights)
        weights[list(prototypes)] = 0
        return self.reweighted(weights)
