"""Feature extractors: the features of torchvision's own networks, under its names; weight files in, or refused."""

import argparse
import os
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from bench.contract import RequestError
from bench.models import torchvision, weights

CELLS = {"squeezenet1_1": 13}
NAMES = [
    "resnet18", "resnet34", "resnet50", "resnet152", "vgg19", "densenet121", "densenet161", "mobilenet_v2",
    "squeezenet1_1",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_shape_and_channels(name):
    net = getattr(torchvision, name)
    with torch.device("meta"):
        shape = net().eval()(torch.empty(2, 3, 224, 224)).shape
    cells = CELLS.get(name, 7)
    assert shape == (2, net.channels, cells, cells)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenet_v2", "squeezenet1_1"])
def test_pooled_features_and_own_head_give_torchvisions_logits(name):
    torch.manual_seed(0)
    whole = models.get_model(name, weights=None).eval()
    features = getattr(torchvision, name)().eval()
    # Whatever the head is called in torchvision's file, it is left out.
    source = {key: value for key, value in whole.state_dict().items() if not key.startswith(weights.HEADS)}
    features.load_state_dict(source)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        z = features(x)
        if name == "squeezenet1_1":
            ours = whole.classifier(z).flatten(1)
        elif name == "resnet18":
            ours = whole.fc(z.mean((2, 3)))
        else:
            head = whole.classifier
            ours = head(z.mean((2, 3)))
        torch.testing.assert_close(ours, whole(x), rtol=1e-4, atol=1e-4)
    assert (z >= 0).all()


def test_vgg_keeps_its_last_pooling():
    with torch.device("meta"):
        net = torchvision.vgg19()
    assert [key for key in net.state_dict() if key.startswith("features.34.")] == [
        "features.34.weight",
        "features.34.bias",
    ]
    assert type(net.features[-1]) is torch.nn.MaxPool2d


@pytest.fixture
def resnet():
    torch.manual_seed(1)
    return torchvision.resnet18()


def save(state, file):
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
    return file


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_with_its_head_loads(tmp_path, resnet, suffix):
    state = models.resnet18(weights=None).state_dict()
    weights.load(resnet, save(dict(state), tmp_path / f"w{suffix}"), "resnet18")
    assert torch.equal(resnet.state_dict()["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


def test_a_training_checkpoint_with_its_options_loads(tmp_path, resnet):
    content = {"state_dict": resnet.state_dict(), "args": argparse.Namespace(lr=0.1), "epoch": 3}
    torch.save(content, tmp_path / "w.pth")
    weights.load(torchvision.resnet18(), tmp_path / "w.pth", "resnet18")


def test_old_densenet_names_load(tmp_path):
    torch.manual_seed(0)
    net = torchvision.densenet121()
    old = {key.replace("norm1", "norm.1").replace("conv2", "conv.2"): value for key, value in net.state_dict().items()}
    assert any("norm.1" in key for key in old)
    other = torchvision.densenet121()
    weights.load(other, save(old, tmp_path / "w.pth"), "densenet121")
    key = "features.denseblock1.denselayer1.conv2.weight"
    assert torch.equal(other.state_dict()[key], net.state_dict()[key])


def test_what_does_not_fit_is_listed(tmp_path, resnet):
    state = resnet.state_dict()
    del state["conv1.weight"]
    state["bn1.weight"] = torch.zeros(3)
    state["stem.weight"] = torch.zeros(1)
    with pytest.raises(RequestError) as caught:
        weights.load(resnet, save(state, tmp_path / "w.pth"), "resnet18")
    message = str(caught.value)
    assert "missing: conv1.weight" in message
    assert "unknown: stem.weight" in message
    assert "wrong shape: bn1.weight (3,) instead of (64,)" in message
    assert "\n" not in message


class Hostile:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


REFUSED = {
    "hostile": "names posix.system, which is no tensor: refused, nothing in it was run; give a state dict",
    "module": "names torch.nn.modules.linear.Linear, which is no tensor: refused, nothing in it was run",
    "list": "is not a state dict: expected names and tensors",
    "text": "is no file of torch.save: refused, nothing in it was run; give a state dict",
    "empty": "is empty: copy or download it again",
}


@pytest.mark.parametrize("content", REFUSED)
def test_nothing_in_a_file_is_executed(tmp_path, content):
    file, planted = tmp_path / "w.pth", tmp_path / "planted"
    if content == "text":
        file.write_text("no weights")
    elif content == "empty":
        file.write_bytes(b"")
    else:
        torch.save(
            {"hostile": {"a": Hostile(planted)}, "module": torch.nn.Linear(2, 2), "list": [torch.zeros(1)]}[content],
            file,
        )
    with pytest.raises(RequestError) as caught:
        weights.read(file)
    assert REFUSED[content] in str(caught.value)
    assert not planted.exists()


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_file_that_was_cut_off_says_so_and_what_to_do(tmp_path, form):
    """Wherever it ends, in our own words: torch's advise to run what is in it."""
    state, file = {"w": torch.randn(20, 20), "b": torch.zeros(3)}, tmp_path / "w.pth"
    if form == "safetensors":
        file = save(state, tmp_path / "w.safetensors")
    else:
        torch.save(state, file, _use_new_zipfile_serialization=form == "zip")
    whole = file.read_bytes()
    for length in range(1, len(whole), 97):
        file.write_bytes(whole[:length])
        with pytest.raises(RequestError) as caught:
            weights.read(file)
        message = str(caught.value)
        assert not any(word in message for word in ("weights_only", "miniz", "PyTorch", "\n"))
        assert "damaged or cut" in message or "names " in message or "no file of torch.save" in message
        assert "copy or download it again" in message or "nothing in it was run" in message
    file.write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(RequestError, match=r"damaged or cut.off.*: copy or download it again"):
        weights.read(file)
    file.write_bytes(whole)
    assert torch.equal(weights.read(file)["w"], state["w"])


def test_an_archive_of_something_else_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(RequestError, match=r"is a zip archive, but none of torch\.save: refused"):
        weights.read(tmp_path / "other.pth")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "program.pth")
    with pytest.raises(RequestError, match=r"is a program of torch\.jit: refused"):
        weights.read(tmp_path / "program.pth")


def test_memory_that_is_short_is_not_the_files_fault(tmp_path, monkeypatch):
    file = save({"w": torch.zeros(100)}, tmp_path / "w.pth")

    def load(*_arguments, **_options):
        raise RuntimeError(f"DefaultCPUAllocator: can't allocate memory: you tried to allocate {tried} bytes.")

    monkeypatch.setattr(torch, "load", load)
    tried = 400
    with pytest.raises(RuntimeError, match="allocate"):
        weights.read(file)
    tried = 2**50  # more than the file holds
    with pytest.raises(RequestError, match="damaged"):
        weights.read(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RequestError, match=r"no weight file .*nowhere\.pth"):
        weights.read(tmp_path / "nowhere.pth")


def test_a_failed_download_says_what_to_pass(tmp_path, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(RequestError, match=r"--weights resnet34=PATH, or --set pretrained=false"):
        torchvision.resnet34.fetch(tmp_path)


def test_the_real_weights_load(mobilenet_weights):
    net = torchvision.mobilenet_v2()
    weights.load(net, mobilenet_weights, "mobilenet_v2")
    assert len(weights.digest(mobilenet_weights)) == 16
