"""Features, pooling, norm and rows of a classifier whose split is known."""

from __future__ import annotations

from torch import Tensor, nn

from bench.contract import RequestError
from bench.models.split.find import Split


class Features(nn.Module):
    """Classifier up to its pooling: images ``(N, 3, H, W)`` -> features ``(N, D, h, w)``.

    It runs the whole classifier and captures the features on the way: the head costs next to nothing, and the logits
    are then the classifier's own. The classifier is shared, not copied.
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
        return None if self.split.norm is None else self.split.norm.strength(features)

    def recomposed(self, features: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
        """Compute ``s Avg(x v^T) + c`` in float64, which are the logits if the split holds."""
        s = self.strength(features)
        logits = features.double().mean((2, 3)) @ rows.T
        return (logits if s is None else logits * s[:, :, 0, 0]) + bias
