"""Where the head of anyone's classifier begins: found, exact, or refused with a reason."""

import functools

import pytest
import timm
import torch
from torch import nn

import bench.models  # noqa: F401 - lets torchvision be imported
from bench.contract import RequestError
from bench.models.fingerprint import fingerprint
from bench.models.split.features import Features
from bench.models.split.find import find
from bench.models.split.verify import verify
from bench.posthoc.wrap.classifier import fold
from tests.support.classifiers import drawn

CLASSES = 5


def from_torchvision(name, **options):
    from torchvision import models

    return models.get_model(name, weights=None, num_classes=CLASSES, **options)


def from_timm(name, **options):
    return timm.create_model(name, num_classes=CLASSES, **options)


def vgg_with_a_linear_head():
    net = from_torchvision("vgg11")
    net.avgpool, net.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, CLASSES)
    return net


def sequence(*between, pool=None, channels=8):
    """A small classifier with something between its pooling and its linear layer."""
    pool = pool or nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3), nn.ReLU(), pool, nn.Flatten(), *between, nn.Linear(channels, CLASSES)
    )


class Shell(nn.Module):
    """A convolution, a linear layer, and a function of both and the image."""

    def __init__(self, function, inputs=8):
        super().__init__()
        self.body, self.last, self.function = nn.Conv2d(3, 8, 3), nn.Linear(inputs, CLASSES), function

    def forward(self, images):
        return self.function(self, images)


HANDLED = {
    "torchvision resnet18": (functools.partial(from_torchvision, "resnet18"), 64, "layer4", None),
    "torchvision densenet121": (functools.partial(from_torchvision, "densenet121"), 64, "features", None),
    "torchvision mobilenet_v2": (functools.partial(from_torchvision, "mobilenet_v2"), 64, "features", None),
    "torchvision convnext_tiny": (functools.partial(from_torchvision, "convnext_tiny"), 64, "features", "layer"),
    "torchvision swin_t": (functools.partial(from_torchvision, "swin_t"), 64, "permute", None),
    "torchvision shufflenet": (functools.partial(from_torchvision, "shufflenet_v2_x0_5"), 64, "conv5", None),
    "torchvision vgg11, linear": (vgg_with_a_linear_head, 64, "features", None),
    "timm resnet10t": (functools.partial(from_timm, "resnet10t"), 64, "layer4", None),
    "timm resnext26ts": (functools.partial(from_timm, "resnext26ts"), 64, "stages", None),
    "timm efficientnet_b0": (functools.partial(from_timm, "efficientnet_b0"), 64, "bn2", None),
    "timm regnetx_002": (functools.partial(from_timm, "regnetx_002"), 64, "s4", None),
    "timm convnext_atto": (functools.partial(from_timm, "convnext_atto"), 64, "stages", "layer"),
    "timm dpn48b": (functools.partial(from_timm, "dpn48b"), 64, "features", None),
    "timm vit, averaged": (
        functools.partial(from_timm, "vit_tiny_patch16_224", img_size=64, global_pool="avg", depth=2),
        64,
        "blocks",
        "layer",
    ),
    "timm vit, averaged without norm": (
        functools.partial(
            from_timm, "vit_tiny_patch16_224", img_size=(64, 96), global_pool="avg", fc_norm=False, depth=2
        ),
        (64, 96),
        "norm",
        None,
    ),
    "timm swin": (
        functools.partial(from_timm, "swin_tiny_patch4_window7_224", img_size=64, depths=(1, 1, 1, 1), window_size=2),
        64,
        "norm",
        None,
    ),
    "timm mixer": (functools.partial(from_timm, "mixer_s32_224"), 224, "norm", None),
    "timm gmlp": (functools.partial(from_timm, "gmlp_ti16_224"), 224, "norm", None),
}


@pytest.mark.parametrize("name", HANDLED)
def test_the_split_is_found_and_exact(name):
    make, size, module, norm = HANDLED[name]
    torch.manual_seed(0)
    model = drawn(make())
    size = (size, size) if isinstance(size, int) else size
    images = torch.randn(2, 3, *size)
    split = find(model, images)
    assert split.module == module
    assert (split.norm.kind if split.norm else None) == norm
    features = Features(model, split)
    residual = verify(features, images)
    assert residual.largest < 1e-5
    assert residual.images == 2
    with torch.no_grad():
        x, logits = features.both(images)
        assert torch.equal(logits, model(images))
        assert logits.abs().max() > 1e-3
        assert x.shape[:2] == (2, features.channels)
        assert x.shape[2] * size[1] == x.shape[3] * size[0]
        # Cell by cell, with nothing of the project's code but the rows.
        rows, bias = features.rows()
        s = features.strength(x)
        maps = torch.einsum("ndhw,cd->nchw", x.double(), rows) * (1 if s is None else s)
        torch.testing.assert_close((maps.mean((2, 3)) + bias).float(), logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features.head(x), logits, rtol=1e-4, atol=1e-5)


NORMS = {
    "batch": nn.BatchNorm1d(8),
    "batch without weights": nn.BatchNorm1d(8, affine=False),
    "layer": nn.LayerNorm(8),
    "layer without weights": nn.LayerNorm(8, elementwise_affine=False),
    "rms": nn.RMSNorm(8, eps=1e-6),
    "dropout": nn.Dropout(0.5),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_between_pooling_and_linear_layer_are_exact(name):
    model = drawn(sequence(NORMS[name]))
    if "batch" in name:
        NORMS[name].running_mean.normal_()
        NORMS[name].running_var.uniform_(0.5, 2)
    images = torch.randn(6, 3, 9, 9)
    features = Features(model, find(model, images))
    assert features.split.norm is None if name == "dropout" else features.split.norm.kind == name.split()[0]
    assert verify(features, images).largest < 1e-5


def test_activation_before_pooling_belongs_to_the_features():
    model = Shell(lambda m, x: m.last(nn.functional.hardswish(m.body(x)).mean((2, 3)))).eval()
    features = Features(model, find(model, torch.randn(2, 3, 8, 8)))
    assert [step.op for step in features.split.steps] == ["hardswish"]
    verify(features, torch.randn(3, 3, 8, 8))


def test_an_activation_in_place_is_seen():
    """torchvision's DenseNet applies its last ReLU to the output of ``features`` in place."""
    model = Shell(lambda m, x: m.last(nn.functional.relu(m.body(x), inplace=True).mean((2, 3)))).eval()
    images = torch.randn(2, 3, 8, 8)
    features = Features(model, find(model, images))
    with torch.no_grad():
        assert (features(images) >= 0).all()
    verify(features, images)
    bad = Shell(lambda m, x: m.last(nn.functional.relu(m.body(x).mean((2, 3)), inplace=True))).eval()
    with pytest.raises(RequestError, match=r"an activation \(`relu`\) is between the pooling"):
        find(bad, images)


REFUSED = {
    "vgg": (lambda: from_torchvision("vgg11"), "more than one layer"),
    "mobilenet v3": (lambda: from_torchvision("mobilenet_v3_small"), "more than one layer .*hardswish"),
    "squeezenet": (lambda: from_torchvision("squeezenet1_1"), "classifies each location before it pools"),
    "vit, class token": (
        lambda: from_timm("vit_tiny_patch16_224", img_size=64, depth=1),
        "reads one token .*global_pool='avg'",
    ),
    "vit, attention pooling": (
        lambda: from_timm("vit_tiny_patch16_224", img_size=64, depth=1, global_pool="map"),
        "attention pooling",
    ),
    "deit, distilled": (
        lambda: from_timm("deit_tiny_distilled_patch16_224", img_size=64, depth=1),
        "several heads .*distilled",
    ),
    "max": (lambda: from_timm("resnet10t", global_pool="max"), "pools by maximum"),
    "avgmax": (lambda: from_timm("resnet10t", global_pool="avgmax"), "mixed or rescaled .*avgmax"),
    "catavgmax": (lambda: from_timm("resnet10t", global_pool="catavgmax"), "side by side .*catavgmax"),
    "no head": (lambda: timm.create_model("resnet10t", num_classes=0), "built without a head"),
    "activation": (lambda: sequence(nn.Tanh()), r"an activation \(`tanh`\) is between"),
    "two layers": (lambda: sequence(nn.Linear(8, 8)), r"more than one layer \(`linear` before"),
    "two norms": (lambda: sequence(nn.LayerNorm(8), nn.BatchNorm1d(8)), "more than one norm"),
    "cells one by one": (
        lambda: nn.Sequential(nn.Conv2d(3, 2, 63), nn.Flatten(), nn.Linear(8, CLASSES)),
        "reads the locations one by one",
    ),
    "coarse pooling": (
        lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, CLASSES)),
        "reads the locations one by one",
    ),
    "one cell": (lambda: nn.Sequential(nn.Conv2d(3, 8, 64), *sequence()[2:]), "single location"),
    "softmax": (lambda: nn.Sequential(*sequence(), nn.Softmax(1)), "ends in `softmax`"),
    "cosine": (
        lambda: Shell(lambda m, x: m.body(x).mean((2, 3)) @ nn.functional.normalize(m.last.weight).T),
        "instead of a linear layer",
    ),
    "weight norm": (
        lambda: nn.Sequential(*sequence()[:-1], nn.utils.parametrizations.weight_norm(nn.Linear(8, CLASSES))),
        "remove_parametrizations",
    ),
    "generalised mean": (
        lambda: Shell(lambda m, x: m.last(m.body(x).clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3))),
        "`pow` is between",
    ),
    "several outputs": (lambda: Shell(lambda m, x: (m.last(m.body(x).mean((2, 3))), x)), "returns tuple instead"),
    "torchscript": (lambda: torch.jit.trace(sequence(), torch.randn(2, 3, 64, 64)), "TorchScript"),
    "lost features": (
        lambda: Shell(lambda m, x: m.last((m.body(x) * 2).mean((2, 3)))),
        "`mul`. Pass them through a torch.nn.Identity",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name):
    make, reason = REFUSED[name]
    torch.manual_seed(0)
    with pytest.raises(RequestError, match=reason):
        find(make().eval(), torch.randn(2, 3, 64, 64))


def test_averaging_with_the_class_token_is_no_grid():
    model = from_timm("vit_tiny_patch16_224", img_size=64, depth=1, global_pool="avg", pool_include_prefix=True)
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(RequestError, match=r"17 tokens .* are no grid"):
        verify(Features(model.eval(), find(model, images)), images)


def test_head_that_reads_the_image_otherwise_is_caught():
    """The recorded calls look right, but a hook changes the pooled features behind their back."""
    model = sequence().eval()

    def meddle(module, args, output):
        output.data.mul_(1.5)

    # On the convolution's output after it was caught: the features are not what is pooled.
    model[2].register_forward_hook(meddle)
    images = torch.randn(2, 3, 9, 9)
    with pytest.raises(RequestError, match="does not hold: recomposed logits differ"):
        verify(Features(model, find(model, images)), images)


def test_logits_that_are_not_finite_are_no_proof():
    model = drawn(sequence())
    images = torch.randn(4, 3, 9, 9)
    features = Features(model, find(model, images))
    with torch.no_grad():
        model[-1].bias[0] = float("inf")
    with pytest.raises(RequestError, match="logits are not finite though its features are"):
        verify(features, images)


def test_half_precision_backbone_is_verified_in_half_precision():
    model = drawn(sequence(nn.LayerNorm(8))).bfloat16()
    images = torch.randn(4, 3, 9, 9).bfloat16()
    features = Features(model, find(model, images))
    assert verify(features, images).largest < 5e-2
    assert features(images).dtype == torch.bfloat16


def test_fingerprints_change_with_weights_and_precision():
    model = sequence()
    before = fingerprint(model)
    assert fingerprint(model) == before
    assert fingerprint(sequence()) != before
    assert fingerprint(model.bfloat16()) != before


def test_folding_gives_the_row_exactly_in_any_order():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 6, generator=generator)
    rows[1] = 0
    rows[2, 0] = 1e-6
    parts = torch.randn(4, 5, 6, generator=generator).double() * 3
    whole = fold(parts, rows)
    for order in (torch.arange(5), torch.tensor([4, 2, 0, 1, 3])):
        assert torch.equal(whole[:, order].sum(1).float(), rows)
    torch.testing.assert_close(whole[:, :-1], parts[:, :-1], rtol=1e-10, atol=1e-12)
    assert torch.equal(fold(torch.zeros(2, 3, 4), torch.zeros(2, 4)), torch.zeros(2, 3, 4).double())
