"""Frozen feature cache: each version of an image is computed once, and the training is the same."""

import pytest
import torch

from bench.config.schedule import Phase, Schedule
from bench.models.classifier import Classifier
from bench.training.black_box import ClassifierLearner
from bench.training.feature_cache import is_frozen, mirrored
from bench.training.trainer import Trainer
from tests.support.samples import Dying, Killed, Silent, SmallNet, stripes


class Blended(ClassifierLearner):
    """Learner that passes other images to the backbone than it received, as mixup does."""

    def forward(self, images, labels, phase):
        return super().forward(images.flip(0).contiguous(), labels.flip(0), phase)


class Mirrored(ClassifierLearner):
    """Learner that looks at each image and at its mirror image."""

    def forward(self, images, labels, phase):
        first, second = (super(Mirrored, self).forward(one, labels, phase) for one in (images, mirrored(images)))
        return {name: value + second[name] for name, value in first.items()}


def learner(kind=ClassifierLearner):
    torch.manual_seed(0)
    module = kind(Classifier(SmallNet(), 3))
    module.seen = []
    module.classifier.backbone.body[0].register_forward_pre_hook(lambda _, images: module.seen.append(len(images[0])))
    return module


def schedule(augment="flip", epochs=4, **facts):
    phase = Phase(**{"name": "warm", "epochs": epochs, "lr": {"head": 0.01}, "freeze_norm": True, **facts})
    return Schedule(batch_size=8, augment=augment, phases=[phase])


def trained(folder, plan, cache_budget=2**30, kind=ClassifierLearner):
    module = learner(kind)
    loop = Trainer(folder, torch.device("cpu"), "fp32", 0, Silent(), cache_budget=cache_budget)
    loop.fit(module, plan, stripes())
    return module, loop


@pytest.mark.parametrize(("augment", "versions"), [("none", 1), ("flip", 2)])
def test_each_version_is_computed_once(tmp_path, augment, versions):
    n = len(stripes())
    once, loop = trained(tmp_path / "once", schedule(augment))
    always, other = trained(tmp_path / "always", schedule(augment), cache_budget=0)
    assert sum(once.seen) == versions * n + 8  # the first batch tells how large features are
    assert sum(always.seen) == 4 * n
    for name, value in always.state_dict().items():
        torch.testing.assert_close(once.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    for row, expected in zip(loop.history, other.history, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert "forward" not in vars(once.classifier.backbone)


@pytest.mark.parametrize(("augment", "seen"), [("flip", 2), ("none", 1 + 4)])
def test_mirror_images_are_known_where_they_are_a_version(tmp_path, augment, seen):
    n = len(stripes())
    once, _ = trained(tmp_path / "once", schedule(augment), kind=Mirrored)
    always, _ = trained(tmp_path / "always", schedule(augment), cache_budget=0, kind=Mirrored)
    assert sum(once.seen) == seen * n + 8
    assert sum(always.seen) == 2 * 4 * n
    for name, value in always.state_dict().items():
        torch.testing.assert_close(once.state_dict()[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("plan", "cache_budget"),
    [
        (schedule(lr={"head": 0.01, "backbone": 0.01}), 2**30),
        (schedule(freeze_norm=False), 2**30),
        (schedule("protopnet2019"), 2**30),
        (schedule(epochs=2), 2**30),
        (schedule(), 100),
    ],
    ids=["it learns", "its norm moves", "many versions", "few epochs", "no room"],
)
def test_no_cache_computes_every_batch(tmp_path, plan, cache_budget):
    samples = stripes()
    samples.images = samples.images.sigmoid()
    module = learner()
    Trainer(tmp_path, torch.device("cpu"), "fp32", 0, Silent(), cache_budget=cache_budget).fit(module, plan, samples)
    assert sum(module.seen) == plan.phases[0].epochs * len(samples)


def test_images_made_by_the_loss_are_computed(tmp_path):
    module, _ = trained(tmp_path, schedule(), kind=Blended)
    assert sum(module.seen) == 4 * len(stripes())


@pytest.mark.parametrize("death", range(1, 5))
def test_resumed_training_has_the_same_features(tmp_path, death):
    whole, _ = trained(tmp_path / "whole", schedule())
    dying = Dying(tmp_path / "killed", torch.device("cpu"), "fp32", 0, Silent())
    dying.lives = death
    with pytest.raises(Killed):
        dying.fit(learner(), schedule(), stripes())
    resumed, _ = trained(tmp_path / "killed", schedule())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_dropout_is_frozen_in_eval_mode_only():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Dropout2d(0.5)).requires_grad_(False)
    assert not is_frozen(network)
    assert is_frozen(network.eval())
