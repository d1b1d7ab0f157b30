"""Reasons why a classifier is not supported, each with its cure."""

from __future__ import annotations

from bench.models.split.trace import Call, ForwardTrace

_ACTIVATIONS = {
    *("relu", "relu_", "relu6", "gelu", "silu", "silu_", "hardswish", "hardswish_", "tanh", "sigmoid", "leaky_relu"),
    *("elu", "selu", "softplus", "mish", "prelu", "hardtanh", "hardsigmoid", "celu", "tanh_", "sigmoid_"),
}
_MAXIMA = {"amax", "max", "adaptive_max_pool2d", "adaptive_max_pool1d", "max_pool2d", "max_pool1d"}
_MIXTURES = {"add", "add_", "__add__", "__radd__", "mul", "__mul__", "__rmul__", "mul_", "div", "__truediv__", "sub"}
_ATTENTION = {"matmul", "__matmul__", "bmm", "einsum", "scaled_dot_product_attention", "multi_head_attention_forward"}
_PASSING = {"flatten", "reshape", "view", "squeeze", "dropout", "batch_norm", "layer_norm"}
_REPLACE = "put one linear layer on the averaged features and fine-tune it"


class UnsupportedHead(Exception):
    """Error of a classifier without average pooling and one linear layer; the message ends a sentence."""


def unsupported_logits(call: Call | None, trace: ForwardTrace) -> str:
    """Return the reason why the logits are not those of one linear layer; ``call`` made them."""
    if call is None:
        return (
            "no linear layer was seen at its end: it has none (build it with a number of classes), or it is "
            "TorchScript or compiled (pass the original module)"
        )
    if call.name in _MIXTURES | {"mean", "stack", "sum"}:
        return (
            f"its logits are put together from several heads or rescaled (`{call.name}`), as distilled models do; "
            "there is no single row per class. Pass a model that returns the logits of one head"
        )
    if call.name in ("softmax", "log_softmax", "sigmoid"):
        return f"it ends in `{call.name}`; pass the model without it, so that it returns logits"
    if "pool" in call.name:
        return (
            "nothing but a pooling makes its logits: it was built without a head, or classifies each location before "
            f"it pools, as SqueezeNet does; {_REPLACE}"
        )
    if call.name in _ATTENTION:
        return f"its logits come from `{call.name}` instead of a linear layer (a cosine or bilinear head); {_REPLACE}"
    return f"its logits come from `{call.name}` instead of a linear layer; {_REPLACE}"


def unsupported_pooling(call: Call | None, trace: ForwardTrace) -> str:
    """Return the reason why the input of the linear layer is no average; ``call`` is the first obstacle."""
    if call is None:
        return (
            "nothing is known about the source of the last layer's input: TorchScript or compiled modules hide it "
            "(pass the original module)"
        )
    if call.name in ("linear", "conv2d"):
        return f"its head has more than one layer (`{call.name}` before the last one); {_REPLACE}"
    if call.name in _ACTIVATIONS:
        if _is_layered(call, trace):
            return f"its head has more than one layer (with `{call.name}` between them); {_REPLACE}"
        return (
            f"an activation (`{call.name}`) is between the pooling and the last layer, so the logit is no average "
            f"over the locations; move it before the pooling, or {_REPLACE}"
        )
    if call.name in ("__getitem__", "select", "index_select", "narrow", "unbind", "chunk", "split"):
        return (
            "its head reads one token (a class token or attention pooling), not the average of the patches; build it "
            "with averaged tokens (timm: create_model(name, global_pool='avg')) and fine-tune it"
        )
    if call.name in _MAXIMA:
        return f"it pools by maximum (`{call.name}`); build it with average pooling (timm: global_pool='avg')"
    if call.name in ("cat", "concat", "hstack"):
        return (
            "its head reads several poolings side by side (`cat`, as timm's catavgmax); build it with average pooling "
            "(timm: global_pool='avg')"
        )
    if call.name in _MIXTURES:
        return (
            f"its pooled features are mixed or rescaled (`{call.name}`, as timm's avgmax); build it with average "
            "pooling (timm: global_pool='avg')"
        )
    if call.name in _ATTENTION:
        return f"it pools by attention (`{call.name}`); build it with average pooling (timm: global_pool='avg')"
    if call.main is not None and (call.name in ("flatten", "reshape", "view") or "pool" in call.name):
        return (
            "its last layer reads the locations one by one (features are flattened, not averaged over all locations); "
            f"use global average pooling: {_REPLACE}"
        )
    return f"`{call.name}` is between the average pooling and the last linear layer; {_REPLACE}"


def unreachable_features(call: Call | None) -> str:
    """Return the reason why the features cannot be captured."""
    made = f" They come from `{call.name}`." if call else ""
    return (
        f"its features are no module's input or output, so they cannot be caught.{made} Pass them through a "
        "torch.nn.Identity() module before they are pooled"
    )


def _is_layered(call: Call, trace: ForwardTrace) -> bool:
    """Return whether an activation, which sees one vector per image, follows a layer with weights."""
    tensor, before = call.main, call.index
    while tensor is not None:
        producer = trace.producer(tensor, before)
        if producer is None:
            return False
        if producer.name in ("linear", "conv2d"):
            return sum(size > 1 for size in tensor.shape[1:]) <= 1
        if producer.name not in _PASSING:
            return False
        tensor, before = producer.main, producer.index
    return False
