"""Official files of ProtoPShare, with prototypes of several classes, and of PixPNet, with other names of layers."""

import pytest
import torch
from safetensors.torch import load_file

from baselines import official_checkpoints
from baselines.pixpnet import PixPNet, PixPNetModel
from baselines.protopshare import ProtoPShare
from bench.config.schedule import Schedule
from bench.contract import RequestError, Sizes
from bench.models import torchvision
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
