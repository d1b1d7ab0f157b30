"""Networks of timm and torchvision by name: their maps, exact heads, layouts of files, and refusals."""

import dataclasses

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform
from torch import nn
from torchvision import models

from bench.contract import RequestError
from bench.core import registry
from bench.core.input_config import InputConfig
from bench.models import weights
from bench.models.backbones import BackboneVariant, build, describe, input_config, pretrained_head
from bench.models.classifier import Classifier, feature_shape
from tests.support.classifiers import drawn

# Name, side of the images, channels, rows and columns of the map, norm between pooling and linear layer.
EXACT = [
    ("timm:test_byobnet", 64, 256, 2, "none"),
    ("timm:test_convnext", 64, 64, 2, "layer"),
    ("timm:test_efficientnet", 64, 256, 2, "none"),
    ("timm:test_nfnet", 64, 192, 2, "none"),
    ("timm:test_resnet", 64, 96, 2, "none"),
    ("timm:test_vit_relpos", 160, 96, 10, "layer"),
    ("timm:test_maxvit", 160, 128, 5, "none"),
    ("timm:tf_efficientnet_lite0", 64, 1280, 2, "none"),
    ("timm:regnetx_002", 64, 368, 2, "none"),
    ("timm:edgenext_xx_small", 64, 168, 2, "layer"),
    ("timm:mobilevit_xxs", 64, 320, 2, "none"),
    ("timm:efficientvit_m0", 224, 192, 4, "batch"),
    ("timm:shvit_s1", 128, 320, 2, "batch"),
    ("timm:starnet_s050", 64, 128, 2, "none"),
    ("timm:dla46x_c", 64, 256, 2, "none"),
    ("timm:poolformerv2_s12", 64, 512, 2, "layer"),
    ("timm:gmlp_ti16_224", 224, 128, 14, "none"),
    ("torchvision:convnext_tiny", 64, 768, 2, "layer"),
    ("torchvision:swin_t", 64, 768, 2, "none"),
    ("torchvision:shufflenet_v2_x0_5", 64, 1024, 2, "none"),
    ("torchvision:mnasnet0_5", 64, 1280, 2, "none"),
    ("torchvision:regnet_y_400mf", 64, 440, 2, "none"),
]


@pytest.mark.parametrize(("name", "side", "channels", "rows", "norm"), EXACT)
def test_a_librarys_logits_come_out_of_averaged_features(tmp_path, name, side, channels, rows, norm):
    torch.manual_seed(0)
    source = registry.load("backbones", name).source
    whole = drawn(source.classifier(5, side))
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    backbone = build(name, side)
    weights.load(backbone, tmp_path / "w.safetensors", name)
    black_box = Classifier(backbone, 5).eval()
    weight, bias = pretrained_head(name, tmp_path / "w.safetensors", 5, channels, side)
    black_box.head.load_state_dict({"weight": weight, "bias": bias})
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        features, logits, expected = backbone(images), black_box(images), whole(images)
    assert features.shape == (2, channels, rows, rows)
    assert expected.abs().max() > 1e-3
    assert (logits - expected).abs().max() <= 1e-5 * max(1, float(expected.abs().max()))
    head = source.head(side)
    assert (head.norm.kind if head.norm else "none", head.refusal) == (norm, "")


# Name, side, channels, rows, and why its own head is refused.
NEW_HEAD = [
    ("timm:test_vit", 160, 64, 10, "reads one token"),
    ("timm:mobilenetv3_small_050", 64, 288, 2, "more than one layer"),
    ("timm:test_mambaout", 64, 64, 2, "more than one layer"),
    ("timm:deit_tiny_distilled_patch16_224", 64, 192, 4, "several heads"),
    ("timm:levit_128s", 224, 384, 4, "several heads"),
    ("torchvision:mobilenet_v3_small", 64, 576, 2, "more than one layer"),
    ("torchvision:squeezenet1_0", 64, 512, 3, "classifies each location"),
    ("torchvision:vit_b_32", 64, 768, 2, "reads one token"),
]


@pytest.mark.parametrize(("name", "side", "channels", "rows", "reason"), NEW_HEAD)
def test_a_head_that_is_not_exact_leaves_the_features(name, side, channels, rows, reason):
    assert feature_shape(name, side) == (channels, rows, rows)
    assert reason in registry.load("backbones", name).source.head(side).refusal


def test_a_pretrained_head_that_is_not_exact_is_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_vit", num_classes=5).state_dict(), file)
    with pytest.raises(RequestError, match="cannot be decomposed: its head reads one token"):
        pretrained_head("timm:test_vit", file, 5, 64, 160)


NO_MAP = {
    "timm:crossvit_tiny_240": (240, "no single feature map"),
    "timm:pit_ti_224": (224, "no square grid"),
    "timm:efficientvim_m1": (224, "no single feature map"),
    "timm:convnext_ato": (224, "timm has no model 'convnext_ato'; did you mean one of convnext_atto"),
    "torchvision:raft_small": (224, "is no image classifier"),
    "torchvision:nothing": (224, "torchvision has no model 'nothing'"),
    "timm:test_vit@stride=4": (160, "cells of 160 pixels instead of 40 x 40"),
    "timm:resnet10t@stride=16": (224, "paths of this network no longer fit together"),
    "resnet18@stride=fine": (224, "stride: .*write NAME@stride=16@frozen"),
    "resnet18@color": (224, "color: "),
}


@pytest.mark.parametrize("name", NO_MAP)
def test_a_network_without_a_map_is_refused(name):
    size, reason = NO_MAP[name]
    with pytest.raises(RequestError, match=reason) as caught:
        feature_shape(name, size)
    assert "\n" not in str(caught.value)


def test_an_unknown_library_is_named():
    with pytest.raises(registry.UnknownName, match="write timm:NAME or torchvision:NAME"):
        registry.entry("backbones", "keras:resnet50")
    with pytest.raises(registry.UnknownName, match=r"did you mean .*resnet50"):
        registry.entry("backbones", "resnet5@frozen")


def test_class_and_register_tokens_are_left_out():
    torch.manual_seed(0)
    backbone = build("timm:vit_small_patch14_reg4_dinov2", 56).eval()
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        tokens, features = backbone.network.forward_features(images), backbone(images)
    assert tokens.shape == (1, 1 + 4 + 16, 384)
    for row in range(4):
        for column in range(4):
            torch.testing.assert_close(features[:, :, row, column], tokens[:, 5 + 4 * row + column])


def test_facebooks_dinov2_file_is_timms(tmp_path):
    """One position embedding more than patches, for the class token, and other names of the registers."""
    torch.manual_seed(0)
    original = build("timm:vit_small_patch14_reg4_dinov2", 56).eval()
    state = {key: torch.randn_like(value) * 0.02 for key, value in original.network.state_dict().items()}
    original.network.load_state_dict(state)
    theirs = dict(state)
    first = torch.randn(1, 1, 384)
    theirs["pos_embed"] = torch.cat([first, theirs["pos_embed"]], dim=1)
    theirs["cls_token"] = theirs["cls_token"] - first
    theirs["register_tokens"] = theirs.pop("reg_token")
    theirs["mask_token"] = torch.zeros(1, 384)
    torch.save(theirs, tmp_path / "dinov2.pth")
    loaded = build("timm:vit_small_patch14_reg4_dinov2", 56).eval()
    weights.load(loaded, tmp_path / "dinov2.pth", "dinov2")
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), original(images), rtol=1e-4, atol=1e-4)
        # At another size of images the embeddings of positions are interpolated.
        larger = build("timm:vit_small_patch14_reg4_dinov2", 84).eval()
        weights.load(larger, tmp_path / "dinov2.pth", "dinov2")
        assert larger(torch.randn(1, 3, 84, 84)).shape == (1, 384, 6, 6)


def test_the_inaturalist_resnet_of_protopnets_family_loads(tmp_path):
    torch.manual_seed(0)
    state = build("resnet50", 224).state_dict()
    theirs = {}
    for key, value in state.items():
        if key.startswith("layer4.2."):
            theirs[key.replace("layer4.2.", "module.backbone.cb_block.")] = value
            theirs[key.replace("layer4.2.", "module.backbone.rb_block.")] = torch.zeros_like(value)
        else:
            theirs[f"module.backbone.{key}"] = value
    theirs["module.classifier.weight"], theirs["module.classifier.bias"] = torch.zeros(5, 4096), torch.zeros(5)
    torch.save(theirs, tmp_path / "BBN.pth")
    loaded = build("resnet50", 224)
    weights.load(loaded, tmp_path / "BBN.pth", "resnet50")
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


def test_a_lightning_run_of_a_timm_model_loads(tmp_path):
    torch.manual_seed(0)
    state = timm.create_model("test_efficientnet", num_classes=5).state_dict()
    content = {
        "state_dict": {f"model.{key}": value for key, value in state.items()},
        "epoch": 3, "pytorch-lightning_version": "2.5.0", "optimizer_states": [], "hyper_parameters": {"lr": 0.1},
    }  # fmt: skip
    torch.save(content, tmp_path / "last.ckpt")
    backbone = build("timm:test_efficientnet", 64)
    weights.load(backbone, tmp_path / "last.ckpt", "timm:test_efficientnet")
    assert all(torch.equal(value, state[key]) for key, value in backbone.network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18@stride=16", (512, 14, 14)),
        ("resnet18@stride=8", (512, 28, 28)),
        ("timm:test_convnext@stride=16", (64, 13, 13)),
        ("timm:convnext_atto@stride=8", (320, 26, 26)),
        ("torchvision:convnext_tiny@stride=8", (768, 26, 26)),
    ],
)
def test_stages_at_stride_one_make_the_map_finer(name, shape):
    assert feature_shape(name, 224) == shape
    with torch.device("meta"):
        fine, plain = build(name, 224).state_dict(), build(name.partition("@")[0], 224).state_dict()
    assert {key: value.shape for key, value in fine.items()} == {key: value.shape for key, value in plain.items()}


def test_a_variant_is_part_of_the_name():
    assert BackboneVariant(stride=16, frozen=True).named("resnet50") == "resnet50@stride=16@frozen"
    assert BackboneVariant().named("resnet50") == "resnet50"
    assert BackboneVariant(stride=16).named("resnet50@frozen") == "resnet50@frozen"
    assert BackboneVariant.of("resnet50@stride=16@frozen") == BackboneVariant(stride=16, frozen=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet34", InputConfig()),
        ("tiny", InputConfig()),
        ("timm:tf_efficientnet_lite0", InputConfig((0.5,) * 3, (0.5,) * 3, "bicubic", 0.875, 224)),
        ("timm:vit_small_patch14_reg4_dinov2@frozen", InputConfig(interpolation="bicubic", crop_share=1.0, size=518)),
        ("torchvision:resnet50", InputConfig(crop_share=224 / 232)),
        ("torchvision:swin_t", InputConfig(interpolation="bicubic", crop_share=224 / 232)),
    ],
)
def test_preprocessing_belongs_to_the_weights(name, expected):
    assert input_config(name) == expected
    with torch.device("meta"):
        assert build(name, expected.size).input_config == expected


def test_facts_of_a_backbone_are_measured():
    relu, gelu = describe("timm:test_resnet", 64), describe("timm:test_convnext", 64)
    assert (relu.signed, relu.rows, relu.channels, relu.head, relu.refusal) == (False, 2, 96, "none", "")
    assert (gelu.signed, gelu.head) == (True, "layer")
    assert describe("squeezenet1_1").refusal.startswith("nothing but a pooling makes its logits")
    assert dataclasses.asdict(describe("tiny"))["refusal"]


def test_efficientnet_lite0_gives_timms_logits_on_photographs(efficientnet_weights, photographs):
    name = "timm:tf_efficientnet_lite0"
    original = timm.create_model("tf_efficientnet_lite0").eval()
    original.load_state_dict(weights.read(efficientnet_weights))
    backbone = build(name, 224)
    weights.load(backbone, efficientnet_weights, name)
    black_box = Classifier(backbone, 1000).eval()
    weight, bias = pretrained_head(name, efficientnet_weights, 1000, 1280, 224)
    black_box.head.load_state_dict({"weight": weight, "bias": bias})
    config = dataclasses.asdict(input_config(name))
    transform = create_transform(
        224, mean=config["mean"], std=config["std"], interpolation="bicubic", crop_pct=config["crop_share"]
    )
    images = torch.stack([transform(Image.open(file).convert("RGB")) for file in photographs])
    with torch.no_grad():
        ours, theirs = black_box(images), original(images)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert torch.equal(ours.argmax(1), theirs.argmax(1))
    assert float(backbone(images).detach().min()) >= 0


def test_dropout_of_a_library_stays_a_training_matter():
    backbone = build("timm:test_efficientnet", 64)
    assert isinstance(backbone, nn.Module)
    assert backbone.training
    assert not build("resnet18@frozen", 64).eval().training


def test_torchvisions_file_loads_by_its_own_name(tmp_path):
    state = models.mobilenet_v3_small(weights=None).state_dict()
    torch.save(state, tmp_path / "w.pth")
    backbone = build("torchvision:mobilenet_v3_small", 64)
    weights.load(backbone, tmp_path / "w.pth", "torchvision:mobilenet_v3_small")
    assert all(torch.equal(value, state[key]) for key, value in backbone.network.state_dict().items())
