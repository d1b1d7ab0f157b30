"""Split of a classifier into features and head: found in a recorded forward pass, described by plain data.

``logits = norm(Avg(x)) W^T + b`` for features x, with or without a norm. The head is linear in x up to one positive
number s per image, the same for all classes, so that *rows* v and a bias c exist with ``logit = s Avg(x v^T) + c``:

====================  =============================================  ==========================
norm after pooling    rows v                                         s
====================  =============================================  ==========================
none                  w                                              1
batch norm (eval)     w g / sqrt(var + eps)                          1
layer norm            w g, minus its mean over the channels          1 / sqrt(Var(Avg(x)) + eps)
RMS norm              w g                                            1 / sqrt(Avg(x)^2 + eps)
====================  =============================================  ==========================

For the layer norm, its mean ``1/D sum_d Avg(x)_d`` is itself linear in x and goes into the rows; only the spread is
not. Dividing the maps of an image by its spread changes neither their peaks nor the predicted class, and the maps then
add up to the logit exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.contract import RequestError, Settings
from bench.models.split.errors import UnsupportedHead, unreachable_features, unsupported_logits, unsupported_pooling
from bench.models.split.trace import Call, ForwardTrace

Layout = Literal["nchw", "nhwc", "nld", "ndl"]

_SAME_VALUES = {
    *("flatten", "reshape", "view", "squeeze", "unsqueeze", "contiguous", "clone", "detach", "to", "float", "type_as"),
    *("permute", "transpose", "movedim", "dropout", "dropout1d", "dropout2d", "feature_dropout", "alpha_dropout"),
}
_ELEMENTWISE = ("relu", "relu6", "silu", "gelu", "hardswish", "mish")
_NORMS = ("layer_norm", "rms_norm", "batch_norm", "group_norm")


class Step(Settings):
    """Operation between the captured tensor of a module and the features.

    Attributes:
        op: ``tokens`` leaves out the first ``dims[0]`` of dimension 1; ``flatten`` starts at ``dims[0]``.
        dims: dimensions of the operation.
    """

    op: Literal["tokens", "permute", "flatten", "relu", "relu6", "silu", "gelu", "hardswish", "mish"]
    dims: tuple[int, ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the operation."""
        if self.op == "tokens":
            return x[:, self.dims[0] :]
        if self.op == "permute":
            return x.permute(self.dims)
        if self.op == "flatten":
            return x.flatten(self.dims[0])
        applied: Tensor = getattr(nn.functional, self.op)(x)
        return applied


class Norm(Settings):
    """Norm between pooling and linear layer; weights by their names in the classifier."""

    kind: Literal["layer", "rms", "batch"]
    eps: float
    weight: str | None = None
    bias: str | None = None
    mean: str | None = None
    var: str | None = None

    def strength(self, features: Tensor) -> Tensor | None:
        """Return the positive number s of each image ``(N, 1, 1, 1)``, float64; None if it is always 1."""
        if self.kind == "batch":
            return None
        pooled = features.double().mean((2, 3))
        spread = pooled.var(1, correction=0) if self.kind == "layer" else pooled.square().mean(1)
        return (spread + self.eps).rsqrt()[:, None, None, None]


class Split(Settings):
    """Description of a classifier's features and head, in names and numbers alone.

    Attributes:
        module: name of the module whose tensor is captured.
        side: its output, or its first input.
        steps: operations from that tensor to the features.
        layout: layout of the features: n = images, c or d = channels, h, w = rows and columns, l = tokens.
        norm: norm between pooling and linear layer.
        weight: name of the weight ``(C, D)`` of the linear layer or 1 x 1 convolution.
        bias: name of its bias.
        channels: number of channels D.
        classes: number of classes C.
    """

    module: str
    side: Literal["output", "input"]
    steps: tuple[Step, ...] = ()
    layout: Layout
    norm: Norm | None = None
    weight: str
    bias: str | None = None
    channels: int
    classes: int

    def summary(self) -> str:
        """Return a description of one line."""
        norm = f" -> {self.norm.kind} norm" if self.norm else ""
        return f"{self.side} of `{self.module}` ({self.channels} channels) -> average{norm} -> {self.weight}"


@torch.no_grad()
def find(classifier: nn.Module, images: Tensor) -> Split:
    """Find the split from one forward pass; ``verify`` is the check that must follow.

    The classifier is in eval mode, and a few real images ``(N, 3, H, W)`` are enough.

    Raises:
        RequestError: with the reason, if the head is not average pooling and one linear layer.
    """
    trace = ForwardTrace(classifier)
    logits = trace.run(images)
    try:
        return _walk(trace, logits)
    except UnsupportedHead as refusal:
        raise RequestError(f"{type(classifier).__name__} cannot be decomposed: {refusal}") from None


def _walk(trace: ForwardTrace, logits: Any) -> Split:
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        returned = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UnsupportedHead(
            f"it returns {returned} instead of logits (images, classes); wrap it so that it returns these only"
        )
    linear = _back(trace, logits, None, _is_linear, lambda call: unsupported_logits(call, trace))
    weight, bias = linear.argument(1, "weight"), linear.argument(2, "bias")
    names = [trace.parameter(tensor) for tensor in (weight, bias)]
    if names[0] is None or (bias is not None and names[1] is None):
        raise UnsupportedHead(
            "the last layer's weight is computed during the forward pass (weight normalisation or another "
            "parametrisation); remove it first, e.g. torch.nn.utils.parametrize.remove_parametrizations"
        )
    norms: list[Norm] = []

    def pools(call: Call) -> bool:
        if call.name in _NORMS:
            if norms:
                raise UnsupportedHead("more than one norm is between the average pooling and the last linear layer")
            norms.append(_norm(call, trace))
            return False
        return _layout(call) is not None

    start = linear.main
    assert start is not None
    pool = _back(trace, start, linear.index, pools, lambda call: unsupported_pooling(call, trace), skip=_NORMS)
    layout = _layout(pool)
    features = pool.main
    assert layout is not None
    assert features is not None
    if features.shape.numel() // features.shape[0] == weight.shape[1]:
        raise UnsupportedHead(
            "its features are a single location before they are pooled, so no prototype has a position; give it larger "
            "images (timm's VGG and others with convolutions for fully connected layers have one location at 224 "
            "pixels)"
        )
    captured, steps = _source(trace, features, pool.index)
    return Split(
        module=captured.module,
        side=captured.side,
        steps=steps,
        layout=layout,
        norm=norms[0] if norms else None,
        weight=names[0],
        bias=names[1],
        channels=weight.shape[1],
        classes=weight.shape[0],
    )


def _back(
    trace: ForwardTrace,
    tensor: Tensor,
    before: int | None,
    wanted: Callable[[Call], bool],
    why: Callable[[Call | None], str],
    skip: tuple[str, ...] = (),
) -> Call:
    """Return the wanted call upstream of a tensor, refusing calls on the way that change its values."""
    current: Tensor | None = tensor
    while current is not None:
        call = trace.producer(current, before)
        if call is None:
            break
        if wanted(call):
            return call
        passes = call.name in _SAME_VALUES and call.main is not None and _is_vector(call.main)
        if not passes and not (call.name in skip and call.main is not None and _is_vector(call.main)):
            raise UnsupportedHead(why(call))
        current, before = call.main, call.index
    raise UnsupportedHead(why(None))


def _is_vector(tensor: Tensor) -> bool:
    """Return whether there is one vector per image, so that any reshaping keeps its values in order."""
    return sum(size > 1 for size in tensor.shape[1:]) <= 1


def _is_linear(call: Call) -> bool:
    if call.main is None or not _is_vector(call.main):
        return False
    if call.name == "linear":
        return call.main.shape[-1] == call.main[0].numel()
    weight = call.argument(1, "weight")
    # A 1 x 1 convolution on pooled features is a linear layer.
    return call.name == "conv2d" and weight.ndim == 4 and weight.shape[1:] == call.main.shape[1:]


def _layout(call: Call) -> Layout | None:
    """Return the layout of the features that this call averages over all locations; None for another call."""
    x = call.main
    if x is None:
        return None
    if call.name == "mean":
        dims = call.argument(1, "dim")
        if dims is None:
            return None
        reduced = tuple(sorted(d % x.ndim for d in ((dims,) if isinstance(dims, int) else dims)))
        table: dict[tuple[int, tuple[int, ...]], Layout] = {
            (4, (2, 3)): "nchw",
            (4, (1, 2)): "nhwc",
            (3, (1,)): "nld",
            (3, (2,)): "ndl",
        }
        return table.get((x.ndim, reduced))
    single = all(size == 1 for size in call.outputs[0].shape[2:])
    if call.name in ("adaptive_avg_pool2d", "avg_pool2d") and x.ndim == 4 and single:
        return "nchw"
    if call.name in ("adaptive_avg_pool1d", "avg_pool1d") and x.ndim == 3 and single:
        return "ndl"
    return None


def _norm(call: Call, trace: ForwardTrace) -> Norm:
    if call.name == "batch_norm":
        if call.argument(5, "training", False):
            raise UnsupportedHead("a batch norm between pooling and linear layer uses the batch's own statistics")
        tensors = [call.argument(i, n) for i, n in enumerate(("running_mean", "running_var", "weight", "bias"), 1)]
        mean, var, weight, bias = _named(tensors, trace)
        return Norm(kind="batch", eps=call.argument(7, "eps", 1e-5), weight=weight, bias=bias, mean=mean, var=var)
    if call.name == "group_norm" and call.argument(1, "num_groups") != 1:
        raise UnsupportedHead("a group norm with several groups is between pooling and linear layer")
    assert call.main is not None
    if call.name == "rms_norm":
        (weight,) = _named([call.argument(2, "weight")], trace)
        eps = call.argument(3, "eps")
        return Norm(kind="rms", eps=torch.finfo(call.main.dtype).eps if eps is None else eps, weight=weight)
    weight, bias = _named([call.argument(i, n) for i, n in enumerate(("weight", "bias"), 2)], trace)
    return Norm(kind="layer", eps=call.argument(4, "eps", 1e-5), weight=weight, bias=bias)


def _named(tensors: list[Any], trace: ForwardTrace) -> list[str | None]:
    names = [trace.parameter(tensor) for tensor in tensors]
    if any(name is None and tensor is not None for name, tensor in zip(names, tensors, strict=True)):
        raise UnsupportedHead("the norm between pooling and linear layer has weights that are computed on the way")
    return names


def _source(trace: ForwardTrace, features: Tensor, before: int) -> tuple[Any, tuple[Step, ...]]:
    """Return the module that captures the features, and the steps from its tensor to them."""
    steps: list[Step] = []
    current: Tensor | None = features
    while current is not None:
        captured = trace.capture(current)
        if captured is not None:
            return captured, tuple(reversed(steps))
        call = trace.producer(current, before)
        step = None if call is None else _step(call)
        if call is None or step is None:
            raise UnsupportedHead(unreachable_features(call))
        steps.append(step)
        current, before = call.main, call.index
    raise UnsupportedHead(unreachable_features(None))


def _step(call: Call) -> Step | None:
    x = call.main
    if x is None:
        return None
    if call.name in _ELEMENTWISE and len(call.tensors) == 1 and "approximate" not in call.kwargs:
        return Step.model_validate({"op": call.name})
    if call.name == "__getitem__":
        key = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
        if len(key) >= 2 and all(k == slice(None) for k in (key[0], *key[2:])) and isinstance(key[1], slice):
            first = key[1].start or 0
            if key[1].stop is None and key[1].step in (None, 1) and first >= 0:
                return Step(op="tokens", dims=(first,))
    if call.name == "permute":
        dims = call.args[1] if len(call.args) == 2 else call.args[1:]
        return Step(op="permute", dims=tuple(call.kwargs.get("dims", dims)))
    if call.name == "transpose":
        order = list(range(x.ndim))
        a, b = call.argument(1, "dim0"), call.argument(2, "dim1")
        order[a], order[b] = order[b], order[a]
        return Step(op="permute", dims=tuple(order))
    if call.name == "flatten" and call.argument(1, "start_dim", 0) > 0 and call.argument(2, "end_dim", -1) == -1:
        return Step(op="flatten", dims=(call.argument(1, "start_dim"),))
    return None
