"""Official files of ProtoPShare, with prototypes of several classes, and of PixPNet and PIP-Net, with other names."""

import pytest
import torch
from safetensors.torch import load_file

from baselines import official_checkpoints, official_files
from baselines.pipnet import PIPNet, PIPNetModel
from baselines.pixpnet import PixPNet, PixPNetModel
from baselines.protopshare import ProtoPShare
from bench.config.schedule import Schedule
from bench.contract import RequestError, Sizes
from bench.models import backbones, torchvision
from tests.support import official_checkouts as stand_ins
from tests.support.samples import stripes, task


@pytest.fixture
def merged(tmp_path):
    """A ProtoPNet of 6 prototypes, the last of which was merged into the first."""
    with stand_ins.imported(stand_ins.checkout("protopshare", tmp_path / "checkout")) as module:
        yield stand_ins.build("protopshare", module)


def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def given(method, tmp_path, **settings):
    config = method.Config(checkpoint=str(tmp_path / "out.safetensors"), schedule=Schedule(phases=[]), **settings)
    return task(tmp_path, stripes(), config, backbone_name="resnet18")


@pytest.mark.parametrize("wrap", [lambda network: network, torch.nn.DataParallel], ids=["module", "parallel"])
@pytest.mark.parametrize("zipped", [True, False])
def test_merged_prototypes_keep_their_classes(wrap, zipped, merged, tmp_path):
    torch.save(wrap(merged), tmp_path / "20_push.pth", _use_new_zipfile_serialization=zipped)
    facts = official_checkpoints.convert("protopshare", tmp_path / "20_push.pth", tmp_path / "out")
    assert (facts["prototypes"], facts["per_class"], facts["assumed"]) == (5, 2, [])
    logits, maps = stand_ins.answers("protopshare", merged, images())
    source = {"source": str(tmp_path / "checkout")}
    for settings in ({}, source):
        model = official_checkpoints.build(ProtoPShare(), given(ProtoPShare, tmp_path, **settings))
        with torch.no_grad():
            seen = model.explain(images())
        torch.testing.assert_close(seen.logits, logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(seen.maps, maps, rtol=1e-3, atol=1e-3)
        assert model.prototypes.classes.int().tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_a_merged_file_is_no_protopnet_and_needs_its_table(merged, tmp_path):
    torch.save(merged, tmp_path / "20_push.pth")
    with pytest.raises(RequestError, match="written by protopshare, not by protopnet: python -m bench import protop"):
        official_checkpoints.convert("protopnet", tmp_path / "20_push.pth", tmp_path / "out")
    torch.save(merged.state_dict(), tmp_path / "state.pth")
    with pytest.raises(RequestError, match=r"5 prototypes for 3 classes.*import the whole pickled model"):
        official_checkpoints.convert("protopshare", tmp_path / "state.pth", tmp_path / "out")
    merged.prototype_class_identity = torch.ones(4, 3)
    torch.save(merged, tmp_path / "wrong.pth")
    with pytest.raises(RequestError, match=r"class identity is \(4, 3\)"):
        official_checkpoints.convert("protopshare", tmp_path / "wrong.pth", tmp_path / "out")


def lightning(model, **changed):
    """The file of a model as a Lightning module has it: layers numbered by kind, in torchvision's order."""
    state = {}
    for number, (name, tensor) in enumerate(model.backbone.state_dict().items()):
        counted = ".num_batches_tracked" if name.endswith("num_batches_tracked") else ""
        state[f"model.features.module_dict.layer{number}{counted}"] = tensor
    for place, name in ((0, "conv1"), (2, "conv_last")):
        for kind, tensor in model.add_on_layers[place].state_dict().items():
            state[f"model.add_on_layers.{name}.{kind}"] = tensor
    count = len(model.prototype_vectors)
    state |= {
        "model.prototype_vectors": model.prototype_vectors.detach(),
        "model.ones": torch.ones_like(model.prototype_vectors),
        "model.corresponding_sample_idxs": torch.full((count,), -1),
        "model.min_fmap_idxs": torch.full((count, 4), -1),
        "model.prototype_class_identity": model.prototypes.classes.int(),
    }
    return {"epoch": 20, "state_dict": {**state, **changed}, "callbacks": {}, "pytorch-lightning_version": "1.8"}


@pytest.fixture(scope="module")
def pixels():
    torch.manual_seed(0)
    return PixPNetModel(torchvision.resnet18(), 3, 2, 5, 64).eval()


def test_our_pixpnet_answers_as_the_file(pixels, tmp_path):
    torch.save(lightning(pixels), tmp_path / "last.ckpt")
    facts = official_checkpoints.convert("pixpnet", tmp_path / "last.ckpt", tmp_path / "out")
    assert (facts["architecture"], facts["per_class"], facts["depth"], facts["epsilon"]) == ("resnet18", 2, 5, 1e-6)
    assert facts["assumed"] == ["activation", "epsilon", "distance"]
    assert "prototype_vectors" in load_file(tmp_path / "out.safetensors")
    config = given(PixPNet, tmp_path).config
    official_checkpoints.check("pixpnet", config, Sizes(3, 5, 512, 4, "resnet18"))
    work = given(PixPNet, tmp_path)
    work.backbone = torchvision.resnet18
    model = official_checkpoints.build(PixPNet(), work)
    seen = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model(seen), pixels(seen))
        assert torch.equal(model.explain(seen).maps, pixels.explain(seen).maps)
    with pytest.raises(RequestError, match="its official code is not run here"):
        official_checkpoints.check("pixpnet", given(PixPNet, tmp_path, source=str(tmp_path)).config, Sizes(3, 5, 1, 1))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"model.last_layer.weight": torch.ones(3, 6)}, "unknown: last_layer.weight"),
        ({"model.prototype_class_identity": torch.ones(5, 3)}, r"is broken: prototype_class_identity is \(5, 3\)"),
        ({"model.add_on_layers.conv1.bias": torch.ones(4)}, r"add_on_layers\.0\.bias is \(4,\)"),
        ({"model.prototype_vectors": torch.ones(6, 4, 1, 1)}, "prototypes of 4 channels"),
    ],
)
def test_other_pixpnets_are_refused(changed, expected, pixels, tmp_path):
    torch.save(lightning(pixels, **changed), tmp_path / "last.ckpt")
    with pytest.raises(RequestError, match=expected):
        official_checkpoints.convert("pixpnet", tmp_path / "last.ckpt", tmp_path / "out")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_backbone_that_torchvision_lacks_is_none_of_ours(pixels, tmp_path):
    file = lightning(pixels)
    file["state_dict"]["model.features.module_dict.layer0"] = torch.ones(64, 3, 5, 5)
    torch.save(file, tmp_path / "last.ckpt")
    assert official_checkpoints.convert("pixpnet", tmp_path / "last.ckpt", tmp_path / "out")["architecture"] is None
    with pytest.raises(RequestError, match="is none of ours"):
        official_checkpoints.check("pixpnet", given(PixPNet, tmp_path).config, Sizes(3, 5, 512, 4, "resnet18"))


def trained(model, **changed):
    """What M-Nauta/PIPNet saves of a network: a parallel module's state, its exponent twice, two optimisers."""
    body = model.backbone.state_dict()
    state = {f"_net.{name.removeprefix('network.')}": tensor for name, tensor in body.items()}
    state |= {f"_add_on.{name}": tensor for name, tensor in model.to_shares.state_dict().items()}
    exponent = torch.full((1,), 2.0)
    state |= {"_multiplier": exponent, "_classification.normalization_multiplier": exponent}
    state |= {"_classification.weight": model.last_layer.weight.detach(), **changed}
    parallel = {f"module.{name}": tensor for name, tensor in state.items() if tensor is not None}
    return {"model_state_dict": parallel, "optimizer_net_state_dict": {}, "optimizer_classifier_state_dict": {}}


def sparse(name="resnet18@stride=8", count=0):
    """A PIP-Net with few weights, some of them below 0, on a backbone at its official stride."""
    torch.manual_seed(0)
    model = PIPNetModel(backbones.build(name, 64), 3, count, 4)
    drawn = torch.randn_like(model.last_layer.weight)
    model.last_layer.weight.data.copy_(drawn.where(torch.rand_like(drawn) > 0.9, 0.0))
    for layer in model.to_shares[:-1]:
        layer.weight.data.mul_(6)
    if hasattr(model.backbone, "norm"):
        model.backbone.norm = None
    return model.eval()


def evidence(model, images):
    """Shares and logits as the official inference has them, from features."""
    with torch.no_grad():
        features = model.backbone(images)
        if len(model.to_shares) > 1:
            layer = model.to_shares[0]
            features = torch.einsum("pd,ndhw->nphw", layer.weight[:, :, 0, 0], features) + layer.bias[:, None, None]
        shares = features.exp() / features.exp().sum(1, keepdim=True)
        top = shares.amax((2, 3))
        return shares, (top * (top >= 0.1)) @ model.last_layer.weight.clamp(min=0).T


def imported(work, name):
    work.backbone = lambda: backbones.build(name, 64)
    return official_checkpoints.build(PIPNet(), work)


@pytest.mark.parametrize(
    ("name", "count", "zipped"),
    [("resnet18@stride=8", 0, True), ("resnet18@stride=8", 7, False), ("torchvision:convnext_tiny@stride=8", 0, True)],
)
def test_our_pipnet_answers_as_the_file(name, count, zipped, tmp_path):
    model = sparse(name, count)
    torch.save(trained(model), tmp_path / "net_trained_last", _use_new_zipfile_serialization=zipped)
    facts = official_checkpoints.convert("pipnet", tmp_path / "net_trained_last", tmp_path / "out")
    positive = model.last_layer.weight > 0
    assert facts["architecture"] == ("convnext_tiny" if "convnext" in name else "resnet18")
    assert (facts["classes"], facts["prototypes"], facts["activation"]) == (3, positive.shape[1], "softmax")
    assert (facts["assumed"], facts["add_on"]) == ([], min(count, 1))
    of_class = sorted({int(row.sum()) for row in positive})
    assert facts["per_class"] == (of_class if len(of_class) > 1 else of_class[0])
    work = given(PIPNet, tmp_path, own=4, prototypes=5)
    official_checkpoints.check("pipnet", work.config, Sizes(3, 5, model.backbone.channels, 4, name))
    made = imported(work, name)
    seen = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    shares, logits = evidence(model, seen)
    with torch.no_grad():
        found = made.explain(seen)
    torch.testing.assert_close(found.maps, shares)
    torch.testing.assert_close(found.logits, logits)
    for c in range(3):
        best = model.last_layer.weight[c].topk(4)
        own = sorted(best.indices[best.values > 0].tolist())
        assert made.prototypes.classes[:, c].nonzero().flatten().tolist() == own


WRONG = {
    "a bias": ({"_classification.bias": torch.ones(3)}, "unknown: last_layer.bias"),
    "another tensor": ({"_pool.weight": torch.ones(3)}, "unknown: _pool.weight"),
    "no bias of the convolution": ({"_add_on.0.bias": None}, r"no: add_on_layers\.0\.bias"),
    "two convolutions": (
        {"_add_on.1.weight": torch.ones(7, 7, 1, 1), "_add_on.1.bias": torch.ones(7)}, "2 convolutions in add_on_layers"
    ),
    "weights of other prototypes": ({"_classification.weight": torch.ones(3, 8)}, "prototypes of 8 channels after"),
    "weights of no class": ({"_classification.weight": torch.ones(0, 7)}, r"tensors without numbers \(C=0\)"),
    "weights in one row": ({"_classification.weight": torch.ones(7)}, r"last_layer\.weight is \(7,\)"),
    "a convolution of patches": ({"_add_on.0.weight": torch.ones(7, 512, 3, 3)}, r"add_on_layers\.0\.weight is"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_other_pipnets_are_refused(name, tmp_path):
    changed, expected = WRONG[name]
    torch.save(trained(sparse(count=7), **changed), tmp_path / "net_trained")
    with pytest.raises(RequestError, match=expected):
        official_checkpoints.convert("pipnet", tmp_path / "net_trained", tmp_path / "out")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_pipnet_needs_its_stride_and_its_own_name(tmp_path):
    torch.save(trained(sparse()), tmp_path / "net_trained")
    with pytest.raises(RequestError, match="written by pipnet, not by protopnet: python -m bench import pipnet "):
        official_checkpoints.convert("protopnet", tmp_path / "net_trained", tmp_path / "out")
    official_checkpoints.convert("pipnet", tmp_path / "net_trained", tmp_path / "out")
    config = given(PIPNet, tmp_path).config
    for other in ("resnet18", "resnet18@stride=16", "torchvision:convnext_tiny@stride=8"):
        with pytest.raises(RequestError, match=f"resnet18, not {other}: --backbones resnet18@stride=8"):
            official_checkpoints.check("pipnet", config, Sizes(3, 5, 512, 4, other))
    source = given(PIPNet, tmp_path, source=str(tmp_path)).config
    with pytest.raises(RequestError, match="its official code is not run here"):
        official_checkpoints.check("pipnet", source, Sizes(3, 5, 512, 4, "resnet18@stride=8"))
    file = load_file(tmp_path / "out.safetensors")
    assert "_multiplier" not in file
    assert official_files.SHAPES["pipnet"].keys() < file.keys()
