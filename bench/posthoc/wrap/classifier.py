"""Classifier of a user with each row of its head written as a sum of k prototypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import Explanation, InputConfig, PartPrototypeModel, PrototypeTable
from bench.models.split.features import Features


class PartPrototypeClassifier(PartPrototypeModel):
    """Part-prototype model with the classifier's logits; its maps are ``s x p_i`` (see ``split`` for s, mostly 1).

    ``sum_i mean(map_i) + bias[c]`` is the logit of class c. The prototypes are kept in float64, also after
    ``model.bfloat16()`` and the like; if that rounds the classifier's rows, the change goes into each class's last
    prototype.

    Args:
        features: the split classifier.
        vectors: prototypes ``(C, k, D)``.
        bias: bias ``(C,)``, including that of a norm between pooling and linear layer.
        class_names: names of the C classes.

    Attributes:
        facts: numbers about the decomposition, such as the completeness residual.
        left_out: files of an image folder that were not read: reason -> ``files`` (number) and ``example``.
        input: preprocessing of the images that it was made from; ``None`` if they came from a loader of the caller's.
    """

    bias: Tensor

    def __init__(
        self, features: Features, vectors: Tensor, bias: Tensor, class_names: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        classes, self.k, _ = vectors.shape
        self.backbone = features
        owner = torch.eye(classes, dtype=torch.bool, device=vectors.device).repeat_interleave(self.k, 0)
        self.prototypes = PrototypeTable(owner, vectors.double().flatten(0, 1))
        self.register_buffer("bias", bias.double())
        self.class_names = tuple(class_names) if class_names else tuple(str(i) for i in range(classes))
        self.facts: dict[str, float] = {}
        self.left_out: dict[str, dict[str, Any]] = {}
        self.input: InputConfig | None = None

    @property
    def classifier(self) -> nn.Module:
        """Return the classifier."""
        classifier: nn.Module = self.backbone.classifier  # type: ignore[assignment]
        return classifier

    @property
    def vectors(self) -> Tensor:
        """Return the prototypes ``(C, k, D)``, float64."""
        assert self.prototypes.vectors is not None
        return self.prototypes.vectors.unflatten(0, (-1, self.k))

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(N, 3, H, W)`` to logits ``(N, C)``, to the bit those of the classifier."""
        logits: Tensor = self.classifier(images)
        return logits

    def logits(self, features: Tensor) -> Tensor:
        """Return logits from features, by the classifier's own layers."""
        return self.features.head(features)

    def explain(self, images: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return the classifier's logits, to the bit, and maps of all prototypes or of ``classes (N,)`` only."""
        features, logits = self.features.both(images)
        return replace(self._maps(features, classes), logits=logits)

    def head(self, features: Tensor, classes: Tensor | None = None) -> Explanation:
        """Return maps ``s x p_i`` in single precision and their means over the image; see the contract."""
        return replace(self._maps(features, classes), logits=self.logits(features))

    def attribute(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return ``sum_i s x p_i / hw``: its sum over the locations plus the bias is the logit."""
        cells = features.shape[2] * features.shape[3]
        return self._maps(features, classes).maps.sum(1) / cells

    def _maps(self, features: Tensor, classes: Tensor | None) -> Explanation:
        s = self.features.strength(features)
        # Half precisions are too coarse for sums over channels that must give the logit.
        x = features if features.dtype == torch.float64 else features.float()
        indices = None if classes is None else self.prototypes.of(classes)
        with torch.autocast(x.device.type, enabled=False):
            if classes is None:
                maps = torch.einsum("ndhw,pd->nphw", x, self.vectors.flatten(0, 1).to(x.dtype))
            else:
                maps = (self.vectors[classes].to(x.dtype) @ x.flatten(2)).unflatten(2, x.shape[2:])
        maps = maps if s is None else maps * s.to(x.dtype)
        return Explanation(maps.new_zeros(0), maps, maps.mean((2, 3)), indices)

    @property
    def features(self) -> Features:
        """Return the split classifier."""
        features: Features = self.backbone  # type: ignore[assignment]
        return features

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PartPrototypeClassifier:
        vectors, before = self.vectors, self.features.named(self.features.split.weight)
        super()._apply(fn, recurse)
        after: Any = self.features.named(self.features.split.weight)
        # Prototypes follow a change of device but not of precision: rounded, they would not sum to the rows.
        self.prototypes.vectors = vectors.flatten(0, 1).to(after.device)
        rows, bias = self.features.rows()
        self.bias = bias
        if before is None or after.dtype != before.dtype:
            self.prototypes.vectors = fold(vectors.to(after.device), rows).flatten(0, 1)
        return self


def fold(vectors: Tensor, rows: Tensor) -> Tensor:
    """Return prototypes ``(C, k, D)`` whose float64 sums are the rows ``(C, D)``, in any order of addition.

    All but the last are rounded to multiples of one power of two per channel, so that sums of them are exact; the last
    is the rest of the row. The sum is off only if a row is no such multiple: smaller than a 2^-28th of its prototypes,
    and then by less than their last bit.
    """
    vectors, rows = vectors.double(), rows.double()
    k = vectors.shape[1]
    if k == 1:
        return rows[:, None].clone()
    largest = torch.maximum(vectors.abs().amax(1), rows.abs()) * (2 * k)
    unit = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 52)
    # If all are zero, or the unit itself would underflow, there is nothing to round.
    unit = torch.where((largest > 0) & (unit > 0), unit, 1.0)[:, None]
    first = torch.where(largest[:, None] > 0, (vectors[:, :-1] / unit).round() * unit, 0.0)
    return torch.cat([first, (rows - first.sum(1))[:, None]], 1)
