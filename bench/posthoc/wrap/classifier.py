"""Classifier of a user with each row of its head written as a sum of k prototypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import Explanation, InputConfig, PartPrototypeModel, PrototypeTable, RequestError
from bench.posthoc.wrap.split import Split


class Features(nn.Module):
    """Classifier up to its pooling: images ``(N, 3, H, W)`` -> features ``(N, D, h, w)``.

    It runs the whole classifier and captures the features on the way: the head costs next to nothing, and the logits
    are then the classifier's own.

    Args:
        classifier: the classifier; shared, not copied.
        split: its split into features and head.
    """

    def __init__(self, classifier: nn.Module, split: Split) -> None:
        super().__init__()
        self.classifier, self.split, self.channels = classifier, split, split.channels

    def forward(self, images: Tensor) -> Tensor:
        """Map images to features."""
        return self.both(images)[0]

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images to features and the classifier's logits ``(N, C)``."""
        caught: list[Tensor] = []
        module = self.classifier.get_submodule(self.split.module)
        if self.split.side == "output":
            handle = module.register_forward_hook(lambda _, args, output: caught.append(output))
        else:
            handle = module.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            logits = self.classifier(images)
        finally:
            handle.remove()
        x = caught[-1]
        for step in self.split.steps:
            x = step(x)
        return self._grid(x, images), logits

    def _grid(self, x: Tensor, images: Tensor) -> Tensor:
        if self.split.layout == "nchw":
            return x
        if self.split.layout == "nhwc":
            return x.permute(0, 3, 1, 2)
        x = x.mT if self.split.layout == "nld" else x
        # Tokens form a grid in the image's proportions.
        height, width = images.shape[-2:]
        rows = round((x.shape[2] * height / width) ** 0.5)
        if rows == 0 or x.shape[2] % rows or rows * width != x.shape[2] // rows * height:
            raise RequestError(
                f"{x.shape[2]} tokens of a {height} x {width} image are no grid: class or register tokens seem to be "
                "averaged with the patches; build the model so that they are left out of the average"
            )
        return x.unflatten(2, (rows, -1))

    def named(self, name: str | None) -> Tensor | None:
        """Return a parameter or buffer of the classifier."""
        if name is None:
            return None
        path, _, last = name.rpartition(".")
        tensor: Tensor = getattr(self.classifier.get_submodule(path), last)
        return tensor.detach()

    def head(self, features: Tensor) -> Tensor:
        """Apply the classifier's pooling, norm and linear layer to features, in its own precision."""
        weight, norm = self.named(self.split.weight), self.split.norm
        assert weight is not None
        pooled = features.to(weight.dtype).mean((2, 3))
        if norm is not None:
            g, b = self.named(norm.weight), self.named(norm.bias)
            if norm.kind == "layer":
                pooled = nn.functional.layer_norm(pooled, pooled.shape[1:], g, b, norm.eps)
            elif norm.kind == "rms":
                pooled = nn.functional.rms_norm(pooled, pooled.shape[1:], g, norm.eps)
            else:
                pooled = nn.functional.batch_norm(
                    pooled, self.named(norm.mean), self.named(norm.var), g, b, eps=norm.eps
                )
        return nn.functional.linear(pooled, weight.flatten(1), self.named(self.split.bias))

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return rows v ``(C, D)`` and biases c ``(C,)`` with ``logit = s Avg(x v^T) + c``, float64; see ``split``."""
        weight = self.named(self.split.weight)
        assert weight is not None
        v, norm = weight.flatten(1).double(), self.split.norm
        bias = self.named(self.split.bias)
        c = v.new_zeros(len(v)) if bias is None else bias.double()
        if norm is None:
            return v, c
        g, b, mean, var = (self.named(name) for name in (norm.weight, norm.bias, norm.mean, norm.var))
        if b is not None:
            c = c + v @ b.double()
        if g is not None:
            v = v * g.double()
        if norm.kind == "layer":
            v = v - v.mean(1, keepdim=True)
        if norm.kind == "batch":
            assert mean is not None
            assert var is not None
            v = v / (var.double() + norm.eps).sqrt()
            c = c - v @ mean.double()
        return v, c

    def strength(self, features: Tensor) -> Tensor | None:
        """Return the positive number s of each image ``(N, 1, 1, 1)``, float64; None if it is always 1."""
        norm = self.split.norm
        if norm is None or norm.kind == "batch":
            return None
        pooled = features.double().mean((2, 3))
        spread = pooled.var(1, correction=0) if norm.kind == "layer" else pooled.square().mean(1)
        return (spread + norm.eps).rsqrt()[:, None, None, None]

    def recomposed(self, features: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
        """Compute ``s Avg(x v^T) + c`` in float64, which are the logits if the split holds."""
        s = self.strength(features)
        logits = features.double().mean((2, 3)) @ rows.T
        return (logits if s is None else logits * s[:, :, 0, 0]) + bias


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
