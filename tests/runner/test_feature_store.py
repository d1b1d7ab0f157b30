"""Features of frozen backbones on disk: read where they are known, computed in the same way otherwise."""

import numpy as np
import pytest
import torch

from bench.runner import feature_store
from bench.runner.feature_store import FeatureStore
from bench.runner.inputs import Inputs
from tests.support.samples import Silent, SmallNet
from tests.support.small_birds import few_birds, planned


def frozen(home, seed=0):
    torch.manual_seed(seed)
    net = SmallNet().eval()
    net.seen = []
    net.body[0].register_forward_pre_hook(lambda _, images: net.seen.append(len(images[0])))
    FeatureStore.attach(net, "small@frozen", home)
    return net


@pytest.fixture
def images():
    return torch.rand(11, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_each_image_is_computed_once_for_all_processes(tmp_path, images):
    net, again = frozen(tmp_path), frozen(tmp_path)
    first = net(images)
    assert net.seen == [8, 8]  # always so many, the rest are zeros
    torch.testing.assert_close(first, net.body(images))
    assert torch.equal(again(images.flip(0)), first.flip(0))
    assert again.seen == []
    changed = images + torch.tensor(1e-6)
    again(changed)
    assert sum(again.seen) == 16  # noise makes other images


@torch.no_grad()
def test_bits_depend_on_no_other_image(tmp_path, images):
    together, alone = frozen(tmp_path / "a")(images), frozen(tmp_path / "b")
    for i in (10, 0, 5):
        assert torch.equal(alone(images[i : i + 1])[0], together[i])


@torch.no_grad()
def test_other_weights_have_other_features(tmp_path, images):
    net, other = frozen(tmp_path), frozen(tmp_path, seed=1)
    before = net(images)
    expected = other(images)
    assert not torch.equal(before, expected)
    net.load_state_dict(other.state_dict())  # as a fit is loaded, after a pass with the starting weights
    assert torch.equal(net(images), expected)


def test_passes_that_learn_or_change_are_not_stored(tmp_path, images):
    net = frozen(tmp_path)
    moving = images.clone().requires_grad_()
    net(moving).sum().backward()
    assert moving.grad is not None
    with torch.no_grad():
        net.train()(images)
    assert not list(tmp_path.rglob("*.npy"))


@torch.no_grad()
def test_damaged_and_too_many_features_are_computed(tmp_path, images, monkeypatch):
    expected = frozen(tmp_path)(images)
    files = sorted(tmp_path.rglob("*.npy"))
    files[0].write_bytes(files[0].read_bytes()[:50])
    net = frozen(tmp_path)
    assert torch.equal(net(images), expected)
    assert net.seen == [8]
    monkeypatch.setattr(feature_store, "_MOST", 3 * np.load(files[1]).nbytes)
    full = frozen(tmp_path / "full")
    assert torch.equal(full(images), expected)
    assert len(list((tmp_path / "full").rglob("*.npy"))) == 2


@pytest.mark.parametrize(
    ("metrics", "stored"), [("accuracy,consistency", 1), ("cost", 0), ("accuracy,deletion", 0), ("misalignment", 0)]
)
def test_cells_share_the_store_unless_they_measure_time_or_change_images(tmp_path, metrics, stored):
    home, birds, alone = tmp_path / "home", few_birds(tmp_path), {"methods": ("blackbox",), "controls": False}
    (cell,) = planned(birds, home, backbones=("tiny@frozen",), metrics=metrics.split(","), **alone)
    net = Inputs(cell.spec, {**vars(cell.where), "plugins": []}, home, Silent()).backbone().eval()
    with torch.no_grad():
        net(torch.rand(2, 3, 64, 64))
    assert len(list(home.glob("features/*/*.npy"))) == 2 * stored


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"protopnet.start.backbone": "imagenet"}, False),
        ({"protopnet.schedule.phases.0.lr.backbone": 0.001}, False),
        ({"protopnet.schedule.phases.1.freeze_norm": False}, False),
    ],
)
def test_a_network_that_keeps_the_black_boxes_backbone_shares_it(tmp_path, change, kept):
    home, alone = tmp_path / "home", {"methods": ("protopnet",), "controls": False, "metrics": ("accuracy",)}
    (cell,) = planned(few_birds(tmp_path), home, overrides=change, **alone)
    net = Inputs(cell.spec, {**vars(cell.where), "plugins": []}, home, Silent()).backbone().eval()
    with torch.no_grad():
        net(torch.rand(2, 3, 64, 64))
    assert len(list(home.glob("features/*/*.npy"))) == 2 * kept
