"""Phased training loop: learning parameters, rates, and a killed training that ends like an undisturbed one."""

import pytest
import torch

from bench.config.schedule import Phase, Schedule
from bench.contract import CellError
from bench.models.classifier import Classifier
from bench.training.black_box import ClassifierLearner
from bench.training.trainer import Learner, Trainer
from tests.support.samples import Dying, Killed, Silent, SmallNet, stripes


def trainer(folder, seed=0, kind=Trainer):
    return kind(folder, torch.device("cpu"), "fp32", seed, Silent())


def learner(seed=0):
    torch.manual_seed(seed)
    return ClassifierLearner(Classifier(SmallNet(), 3))


def phase(name="all", **facts):
    return Phase(**{"name": name, "epochs": 2, "optimizer": "adam", "lr": {"backbone": 0.01, "head": 0.01}, **facts})


def test_training_lowers_the_loss(tmp_path):
    samples, module = stripes(), learner()
    loop = trainer(tmp_path)
    loop.fit(module, Schedule(batch_size=12, phases=[phase(epochs=12)]), samples)
    with torch.no_grad():
        accuracy = (module.classifier(samples.images).argmax(1) == samples.labels).float().mean()
    assert accuracy > 0.95
    assert not module.training
    assert loop.history[-1]["loss"] < loop.history[0]["loss"]
    assert [row["epoch"] for row in loop.history] == list(range(12))


def test_only_named_groups_learn(tmp_path):
    module = learner()
    before = {name: value.clone() for name, value in module.named_parameters()}
    trainer(tmp_path).fit(module, Schedule(phases=[phase(lr={"head": 0.01})]), stripes())
    changed = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"classifier.head.weight", "classifier.head.bias"}


def test_a_frozen_backbone_learns_in_no_phase(tmp_path):
    module = learner()
    module.classifier.backbone.frozen = True
    before = {name: value.clone() for name, value in module.classifier.backbone.state_dict().items()}
    head = module.classifier.head.weight.clone()
    phases = [phase("warm", lr={"backbone": 0.1}), phase("all", epochs=6)]
    loop = trainer(tmp_path)
    loop.fit(module, Schedule(batch_size=12, augment="none", phases=phases), stripes())
    assert all(torch.equal(value, before[key]) for key, value in module.classifier.backbone.state_dict().items())
    assert not torch.equal(head, module.classifier.head.weight)
    assert [row["phase"] for row in loop.history] == ["all"] * 6
    assert loop.history[-1]["loss"] < loop.history[0]["loss"]


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_norm_keeps_its_statistics(tmp_path, frozen):
    module = learner()
    before = module.classifier.backbone.body[1].running_mean.clone()
    trainer(tmp_path).fit(module, Schedule(phases=[phase(lr={"head": 0.01}, freeze_norm=frozen)]), stripes())
    assert torch.equal(before, module.classifier.backbone.body[1].running_mean) == frozen


def test_weight_decay_reaches_its_group_only(tmp_path):
    module = learner()
    decayed = phase(
        epochs=1, optimizer="sgd", momentum=0.0, lr={"backbone": 0.0, "head": 0.1}, weight_decay={"head": 1.0}
    )
    plain = decayed.model_copy(update={"weight_decay": {}})
    other = learner()
    trainer(tmp_path / "a").fit(module, Schedule(batch_size=36, augment="none", phases=[decayed]), stripes())
    trainer(tmp_path / "b").fit(other, Schedule(batch_size=36, augment="none", phases=[plain]), stripes())
    start = learner().classifier.head.weight
    # One step of plain SGD: decay takes off lr x decay x weight = a tenth of the starting weight.
    difference = other.classifier.head.weight - module.classifier.head.weight
    torch.testing.assert_close(difference, 0.1 * start, rtol=1e-3, atol=1e-5)


def test_repeat_makes_an_epoch_of_several_passes(tmp_path):
    once, thrice = learner(), learner()
    trainer(tmp_path / "a").fit(once, Schedule(batch_size=12, phases=[phase(epochs=1)]), stripes())
    loop = trainer(tmp_path / "b")
    loop.fit(thrice, Schedule(batch_size=12, repeat=3, phases=[phase(epochs=1)]), stripes())
    assert len(loop.history) == 1
    assert 0 < loop.history[0]["train_accuracy"] <= 1
    batches = {
        name: m.classifier.backbone.body[1].num_batches_tracked.item() for name, m in (("a", once), ("b", thrice))
    }
    assert batches == {"a": 3, "b": 9}


def test_bfloat16_trains_too(tmp_path):
    module = learner()
    loop = Trainer(tmp_path, torch.device("cpu"), "bf16", 0, Silent())
    loop.fit(module, Schedule(batch_size=12, phases=[phase(epochs=12)]), stripes())
    assert loop.history[-1]["loss"] < 0.5 * loop.history[0]["loss"]
    assert module.classifier.head.weight.dtype == torch.float32


TWO_PHASES = Schedule(
    batch_size=8,
    phases=[
        phase("warm", epochs=2, lr={"head": 0.01}),
        phase("joint", epochs=2, decay="step", step=1, gamma=0.5),
        phase("warm", epochs=1, lr={"head": 0.01}),
        phase("joint", epochs=2, decay="step", step=1, gamma=0.5),
    ],
)


@pytest.mark.parametrize("death", range(1, 12))
def test_a_killed_training_ends_like_an_undisturbed_one(tmp_path, death):
    samples = stripes()
    undisturbed = learner()
    trainer(tmp_path / "whole").fit(undisturbed, TWO_PHASES, samples)
    dying = trainer(tmp_path / "killed", kind=Dying)
    dying.lives = death
    with pytest.raises(Killed):
        dying.fit(learner(), TWO_PHASES, samples)
    resumed, loop = learner(seed=9), trainer(tmp_path / "killed")
    loop.fit(resumed, TWO_PHASES, samples)
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert len(loop.history) == 7


@pytest.mark.parametrize("policy", ["protopnet2019", "tesnet2021", "prototree2021"])
def test_a_killed_training_draws_the_same_augmentations(tmp_path, policy):
    samples, schedule = stripes(), TWO_PHASES.model_copy(update={"augment": policy, "repeat": 2})
    samples.images = samples.images.sigmoid()
    undisturbed = learner()
    trainer(tmp_path / "whole").fit(undisturbed, schedule, samples)
    dying = trainer(tmp_path / "killed", kind=Dying)
    dying.lives = 5
    with pytest.raises(Killed):
        dying.fit(learner(), schedule, samples)
    resumed = learner(seed=9)
    trainer(tmp_path / "killed").fit(resumed, schedule, samples)
    plain = learner()
    trainer(tmp_path / "plain").fit(plain, schedule.model_copy(update={"augment": "none"}), samples)
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert not torch.equal(undisturbed.classifier.head.weight, plain.classifier.head.weight)


def test_another_seed_orders_the_data_differently(tmp_path):
    one, other = learner(), learner()
    trainer(tmp_path / "a", 0).fit(one, Schedule(batch_size=8, phases=[phase()]), stripes())
    trainer(tmp_path / "b", 1).fit(other, Schedule(batch_size=8, phases=[phase()]), stripes())
    assert not torch.equal(one.classifier.head.weight, other.classifier.head.weight)


def test_a_loss_that_is_not_finite_ends_the_cell(tmp_path):
    samples = stripes()
    samples.images[5] = float("nan")
    with pytest.raises(CellError, match=r"loss became nan in phase 'all', epoch 1.*lower its learning rates"):
        trainer(tmp_path).fit(learner(), Schedule(phases=[phase()]), samples)
    assert not (tmp_path / "training.pt").exists()


def test_an_unknown_group_is_named(tmp_path):
    with pytest.raises(CellError, match=r"'heads'.*parameter groups: \['backbone', 'head'\]"):
        trainer(tmp_path).fit(learner(), Schedule(phases=[phase(lr={"heads": 0.1})]), stripes())


def test_an_unknown_action_is_named(tmp_path):
    with pytest.raises(TypeError, match="ClassifierLearner knows no action 'project'"):
        trainer(tmp_path).fit(learner(), Schedule(phases=[phase(epochs=0, action="project")]), stripes())


def test_rates_fall_as_written():
    assert [phase(decay="step", step=5, lead=1).factor(e, 0) for e in (0, 3, 4, 8, 9)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )
    cosine = phase(decay="cosine", epochs=4)
    assert [cosine.factor(7 + e, e) for e in range(4)] == pytest.approx([1, 0.853553, 0.5, 0.146447], rel=1e-5)
    assert phase().factor(100, 100) == 1


def test_after_step_follows_every_step(tmp_path):
    class Counting(ClassifierLearner):
        steps = 0

        def after_step(self):
            self.steps += 1

    torch.manual_seed(0)
    module = Counting(Classifier(SmallNet(), 3))
    trainer(tmp_path).fit(module, Schedule(batch_size=10, phases=[phase()]), stripes())
    assert module.steps == 8  # 36 images in batches of 10, twice


def test_epochs_are_counted_over_phases_and_after_a_kill(tmp_path):
    class Counting(ClassifierLearner):
        def before_epoch(self, epoch):
            epochs.append(epoch)

    def fit(loop):
        torch.manual_seed(0)
        loop.fit(Counting(Classifier(SmallNet(), 3)), TWO_PHASES, stripes())

    epochs = []
    dying = trainer(tmp_path, kind=Dying)
    dying.lives = 5  # in the third phase: the ends of phases are saved too
    with pytest.raises(Killed):
        fit(dying)
    assert epochs == [0, 1, 2, 3]
    fit(trainer(tmp_path))
    assert epochs == list(range(7))


def test_learner_without_a_loss_raises():
    with pytest.raises(TypeError, match="Learner defines no loss"):
        Learner()(torch.zeros(1), torch.zeros(1), "x")


def test_tf32_needs_a_gpu(tmp_path):
    loop = Trainer(tmp_path, torch.device("cpu"), "tf32", 0, Silent())
    with pytest.raises(CellError, match="write --precision fp32, or --device cuda"):
        loop.fit(learner(), Schedule(phases=[phase()]), stripes())
