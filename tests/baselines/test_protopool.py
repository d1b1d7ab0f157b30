"""ProtoPool's behaviour; its formulas are in oracle/test_protopool_loops.py."""

import pytest
import torch

from baselines import layers, protopool_ops
from baselines.protopool import ProtoPool, ProtoPoolLearner, ProtoPoolModel
from bench.config import schema as configuration
from bench.config.schedule import Phase, Schedule
from bench.contract import RequestError, Sizes
from bench.core.paths import config_file
from bench.training.trainer import Trainer
from tests.support.largest_tensor import LargestTensor
from tests.support.samples import Silent, SmallNet, stripes, task

RATES = {"backbone": 0.01, "add_on": 0.01, "presence": 0.01, "prototypes": 0.01}
SCHEDULE = Schedule(
    batch_size=12,
    phases=[
        Phase(name="joint", epochs=3, lr=RATES, action="project"),
        Phase(name="last", epochs=2, lr={"last_layer": 0.01}, freeze_norm=True),
    ],
)


def settings(schedule=SCHEDULE, **changed):
    few = {"prototypes": 12, "slots": 2, "depth": 8, "gumbel_epochs": 2}
    return ProtoPool.Config(**{**few, **changed}, schedule=schedule)


def small_model(**changed):
    torch.manual_seed(0)
    return ProtoPoolModel(SmallNet(), classes=3, prototypes=7, slots=2, depth=5, **changed)


def images(count=4):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------------------------------------ the sums


def both_ways(function):
    """Value and gradients of a function of leaves, factored and literal."""
    found = []
    for mixing in ("factored", "literal"):
        g = torch.Generator().manual_seed(2)
        leaves = [
            torch.rand(shape, generator=g, dtype=torch.float64).requires_grad_() for shape in ((2, 5, 11), (4, 11, 3))
        ]
        value = function(*leaves, mixing)
        weight = torch.rand(value.shape, generator=g, dtype=torch.float64)
        found.append([value, *torch.autograd.grad((value * weight).sum(), leaves, allow_unused=True)])
    return zip(*found, strict=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda d, logits, mixing: protopool_ops.mix(d, logits.softmax(1), mixing),
        lambda d, logits, mixing: protopool_ops.orthogonality(logits - 0.5, mixing),
    ],
    ids=["mixing", "orthogonality"],
)
def test_factored_sums_are_the_literal_ones(function):
    for factored, literal in both_ways(function):
        assert (factored is None) == (literal is None)
        if factored is not None:
            torch.testing.assert_close(factored, literal, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("mixing", "factor"), [("factored", 1), ("literal", 2 * 6)])
def test_nothing_is_larger_than_the_presence(mixing, factor):
    presence = torch.randn(30, 40, 4).requires_grad_()
    distances = torch.rand(2, 6, 40, requires_grad=True)
    with LargestTensor() as seen:
        loss = protopool_ops.mix(distances, presence.softmax(1), mixing).sum() + protopool_ops.orthogonality(
            presence, mixing
        )
        loss.backward()
    assert seen.size == factor * presence.numel()


def test_mixing_stays_exact_under_bfloat16():
    g = torch.Generator().manual_seed(0)
    distances, presence = torch.rand(5, 9, generator=g), torch.rand(3, 9, 2, generator=g).softmax(1)
    expected = (distances[:, None, :, None] * presence).sum(2)
    with torch.autocast("cpu", torch.bfloat16):
        found = protopool_ops.mix(distances, presence)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_draws_are_those_of_torch():
    logits = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(4)
    found = protopool_ops.draw_presence(logits, 2.5)
    torch.manual_seed(4)
    expected = torch.nn.functional.gumbel_softmax(2.5 * logits, tau=0.5, dim=1)
    torch.testing.assert_close(found, expected)
    seeded = [protopool_ops.draw_presence(logits, 2.5, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(seeded[0], seeded[1])
    assert not torch.equal(seeded[0], seeded[2])
    assert torch.equal(protopool_ops.draw_presence(logits, 0), logits.softmax(1))


# ------------------------------------------------------------------------------------------------ learning


def test_the_l1_term_leaves_a_class_its_own_slots():
    model = small_model()
    model.last_layer.weight.data.fill_(-2.0)
    l1 = layers.foreign_weight(model.last_layer, ProtoPoolLearner(model, settings(), Silent()).own_slots)
    (grad,) = torch.autograd.grad(l1, [model.last_layer.weight])
    assert torch.equal(grad, -(1 - torch.eye(3).repeat_interleave(2, 1)))


def test_a_presence_that_does_not_learn_is_that_of_inference():
    model = small_model().eval()
    model.proto_presence.data.normal_(generator=torch.Generator().manual_seed(3))
    learner = ProtoPoolLearner(model, settings(mixup=0), Silent())
    learner.requires_grad_(False)
    learner.before_epoch(7)
    labels = torch.tensor([0, 2, 1, 0])
    found = learner(images(), labels, "last")["cross_entropy"]
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(model(images()), labels))
    assert torch.equal(model.slots, model.proto_presence.argmax(1))


def test_fit_counts_prototypes_without_a_class(tmp_path):
    """Twelve prototypes for six slots: some are held by no class. They are counted, and nothing happens to them."""
    work = task(tmp_path, stripes(), settings())
    start, model = ProtoPool().build(work), ProtoPool().fit(work)
    table, held = model.prototypes, model.prototypes.classes.any(1)
    assert work.facts["unassigned"] == (~held).sum() >= 6
    assert work.facts["projected"] == 1
    assert 0 <= work.facts["repeated_slots"] <= 0.5
    assert (table.source_image[~held] == -1).all()
    assert model.prototype_vectors[~held].any((1, 2, 3)).all()
    assert model.prototype_vectors.shape == start.prototype_vectors.shape


# ------------------------------------------------------------------------------------------------ the official code


def test_the_official_noise_changes_one_slot_in_a_hundred():
    """Of untrained presences, 1.2 % of the slots differ between two calls of the official code."""
    slots = []
    for noise_seed in (1, 2):
        torch.manual_seed(0)
        model = ProtoPoolModel(SmallNet(), classes=200, prototypes=202, slots=10, depth=4, noise_seed=noise_seed)
        slots.append(model.slots)
    share = (slots[0] != slots[1]).float().mean()
    assert 0.006 < share < 0.02


def test_weights_have_the_official_names_and_shapes():
    """Tensors of the official state dict; all others in the state are the backbone's or ours."""
    state = small_model().state_dict()
    found = {
        name: tuple(value.shape) for name, value in state.items() if not name.startswith(("backbone.", "prototypes."))
    }
    assert found.pop("slots") == (3, 2)
    assert found == {
        "proto_presence": (3, 7, 2),
        "prototype_vectors": (7, 5, 1, 1),
        "add_on_layers.0.weight": (5, 16, 1, 1),
        "add_on_layers.0.bias": (5,),
        "last_layer.weight": (3, 6),
    }
    own = torch.eye(3).repeat_interleave(2, 1)
    assert torch.equal(state["last_layer.weight"], own)


def test_inference_is_noisy_with_the_official_bugs_only():
    quiet, one, two = (small_model(noise_seed=seed).eval() for seed in (None, 1, 2))
    for model in (quiet, one, two):
        model.proto_presence.data.mul_(1e-4)  # near enough for the noise to decide
        model.assign()
    with torch.no_grad():
        logits = [model(images()) for model in (quiet, one, two)]
        assert torch.equal(one(images()), logits[1])
    assert not torch.equal(logits[1], logits[2])
    assert not torch.equal(logits[0], logits[1])
    assert torch.equal(quiet.slots, quiet.proto_presence.argmax(1))
    assert not torch.equal(one.slots, quiet.slots)


def test_the_official_bugs_in_a_fit(tmp_path):
    notes = []

    class Telling(Silent):
        def note(self, message):
            notes.append(message)

    work = task(tmp_path, stripes(), settings(official_bugs=True))
    work.trainer = Trainer(tmp_path, work.device, "fp32", 0, Telling())
    model = ProtoPool().fit(work)
    held = model.prototypes.classes.any(1)
    assert not model.prototype_vectors[~held].any()
    assert model.prototype_vectors[held].any((1, 2, 3)).all()
    # One epoch fewer than written, and the draws of the first that trains have the scale of the second.
    assert [message.split()[0:2] for message in notes if "loss" in message] == [
        ["joint", "1/2"], ["joint", "2/2"], ["last", "1/2"], ["last", "2/2"],
    ]  # fmt: skip
    learner = ProtoPoolLearner(model, work.config, Silent())
    learner.before_epoch(0)
    assert learner.scale == protopool_ops.gumbel_scale(1, 2)
    again = ProtoPool().build(work)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(again(images()), model(images()))


# ------------------------------------------------------------------------------------------------ requests


def test_the_published_recipe_is_the_published_one():
    file = config_file("methods", "protopool")
    found = configuration.from_recipe(file, ProtoPool.Config, "published", {}, "protopool")
    assert (found.prototypes, found.slots, found.depth, found.mixup, found.gumbel_epochs) == (202, 10, 256, 0.5, 30)
    assert (found.cluster, found.separation, found.l1, found.orthogonality) == (0.8, 0.08, 1e-4, 1.0)
    assert not found.official_bugs
    warm, joint, last = found.schedule.phases
    assert (warm.epochs, last.epochs, joint.action, warm.action) == (10, 25, "project", None)
    assert (joint.step, joint.gamma, joint.lead, last.step, last.gamma) == (5, 0.1, 0, 5, 0.95)
    for group in ("add_on", "presence", "prototypes"):
        assert warm.lr[group] == joint.lr[group] == pytest.approx(30 * joint.lr["backbone"])
    assert joint.lr["backbone"] == last.lr["last_layer"]
    assert set(warm.lr) == {"add_on", "presence", "prototypes"}
    assert set(last.lr) == {"last_layer"}


def test_a_pool_no_larger_than_a_class_is_refused():
    with pytest.raises(RequestError, match=r"protopool.prototypes=2 must exceed protopool.slots=2"):
        ProtoPool.check(settings(prototypes=2), Sizes(classes=3, images_per_class=5, channels=16, cells=16))
