"""What TesNet's terms, its subspaces and its training must do; the formulas themselves are in tests/oracle."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from baselines import layers
from baselines.tesnet import TesNet, TesNetLearner, TesNetModel, literal_subspace_separation, subspace_separation
from bench.config.schedule import Phase, Schedule
from bench.config.schema import from_recipe
from bench.contract import RequestError, Sizes
from bench.core.paths import config_file
from tests.support.samples import Silent, SmallNet, stripes, task

JOINT = {"backbone": 0.01, "add_on": 0.01, "prototypes": 0.01}


def bases(seed, classes=4, per_class=3, depth=6, dtype=torch.float64):
    drawn = torch.randn(classes, per_class, depth, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=2).to(dtype)


def value_and_gradient(term, at):
    at = at.clone().requires_grad_()
    value = term(at)
    value.backward()
    return value.detach(), at.grad


sizes = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 7))


@given(st.integers(0, 2**31), sizes)
@settings(deadline=None, max_examples=40)
def test_gram_form_equals_the_literal_one(seed, shape):
    drawn = bases(seed, *shape)
    value, gradient = value_and_gradient(subspace_separation, drawn)
    literal, literal_gradient = value_and_gradient(literal_subspace_separation, drawn)
    torch.testing.assert_close(value, literal, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, literal_gradient, rtol=1e-6, atol=1e-7)


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_gram_form_equals_the_literal_one_if_classes_coincide(seed):
    """Two classes with the same vectors: the root's slope is infinite there, the term's gradient is not."""
    drawn = bases(seed)
    drawn[2] = drawn[0]
    value, gradient = value_and_gradient(subspace_separation, drawn)
    literal, literal_gradient = value_and_gradient(literal_subspace_separation, drawn)
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(value, literal, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, literal_gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("off", [1e-2, 1e-4, 1e-6])
def test_gram_form_keeps_small_distances_in_single_precision(off):
    """Squares of near numbers are subtracted: the rest must still be the distance."""
    drawn = bases(0, dtype=torch.float32)
    drawn[1] = drawn[0] + off * torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    value, gradient = value_and_gradient(subspace_separation, drawn[:2])
    exact, exact_gradient = value_and_gradient(literal_subspace_separation, drawn[:2].double())
    assert value.dtype == gradient.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-3)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-3, atol=1e-3)


def test_subspace_gradient_against_differences():
    assert torch.autograd.gradcheck(subspace_separation, bases(3).requires_grad_())


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=20)
def test_subspaces_do_not_depend_on_the_choice_of_basis(seed):
    drawn = bases(seed)
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)).Q
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    value = subspace_separation(drawn)
    torch.testing.assert_close(subspace_separation(turn @ drawn), value)
    torch.testing.assert_close(subspace_separation(drawn @ rotation), value)


def test_orthogonal_subspaces_by_hand():
    """Orthonormal bases of orthogonal subspaces: every pair is sqrt(2K) apart."""
    axes = torch.eye(6).reshape(3, 2, 6)
    assert subspace_separation(axes).item() == pytest.approx(6 * math.sqrt(2 * 2) / (2 * math.sqrt(2)))
    assert layers.orthonormality(axes).item() == 0
    assert layers.orthonormality(2 * axes).item() == pytest.approx(6 * 3)
    assert subspace_separation(axes[:1].expand(3, 2, 6)).item() == 0


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes, forwards or backwards."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        made = function(*arguments, **(keywords or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return made


@pytest.mark.parametrize(("classes", "depth"), [(30, 4), (8, 12)])
def test_gram_form_stays_small(classes, depth):
    drawn = bases(0, classes, 3, depth).requires_grad_()
    with Largest() as gram:
        subspace_separation(drawn).backward()
    with Largest() as literal:
        literal_subspace_separation(drawn).backward()
    assert gram.numbers == max(classes**2, classes * depth**2)
    assert literal.numbers == (classes * depth) ** 2


def test_subspaces_stay_exact_under_bfloat16():
    drawn = bases(0, dtype=torch.float32)
    exact = subspace_separation(drawn), layers.orthonormality(drawn)
    with torch.autocast("cpu", torch.bfloat16):
        found = subspace_separation(drawn), layers.orthonormality(drawn)
    assert found == exact


@pytest.fixture
def learner():
    torch.manual_seed(0)
    model = TesNetModel(SmallNet(), classes=3, per_class=2, depth=5)
    return TesNetLearner(model, TesNet.Config(schedule=Schedule(phases=[])), Silent())


NETWORK = {"backbone", "add_on", "prototypes"}
REACHED = {
    "cross_entropy": NETWORK | {"last_layer"},
    "cluster": NETWORK,
    "separation": NETWORK,
    "l1": {"last_layer"},
    "orthonormality": {"prototypes"},
    "subspace": {"prototypes"},
    "loss": NETWORK | {"last_layer"},
}


@pytest.mark.parametrize("term", REACHED)
def test_each_term_reaches_its_parameters_and_no_others(learner, term):
    samples = stripes()
    value = learner(samples.images[::3], samples.labels[::3], "joint")[term]
    groups = learner.groups()
    reached = set()
    for name, parameters in groups.items():
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        if any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients):
            reached.add(name)
    assert reached == REACHED[term]
    assert sum(map(len, groups.values())) == len(list(learner.parameters()))


def test_the_l1_term_leaves_a_class_its_own_prototypes(learner):
    samples = stripes()
    l1 = learner(samples.images[:4], samples.labels[:4], "last")["l1"]
    (gradient,) = torch.autograd.grad(l1, [learner.model.last_layer.weight])
    assert torch.equal(gradient, -(~learner.model.prototypes.classes.T).float())


@pytest.mark.parametrize("term", ["cross_entropy", "cluster", "separation"])
def test_terms_on_images_see_only_directions_of_prototypes(learner, term):
    """Their gradient has no part along a prototype: its length does not matter to them."""
    samples = stripes()
    value = learner(samples.images[::3], samples.labels[::3], "joint")[term]
    prototypes = learner.model.prototype_vectors
    (gradient,) = torch.autograd.grad(value, [prototypes])
    along = (gradient * layers.unit(prototypes)).sum(1)
    assert along.abs().max() < 1e-5 * gradient.abs().max()
    assert gradient.abs().max() > 0


def test_a_longer_cell_is_more_of_a_prototype_but_no_nearer():
    """The map grows with the length of z, the cosine does not."""
    z = torch.rand(1, 5, 1, 1, generator=torch.Generator().manual_seed(0))
    p = torch.rand(3, 5, 1, 1, generator=torch.Generator().manual_seed(1))
    near, far = layers.projections(z, p), layers.projections(3 * z, 7 * p)
    torch.testing.assert_close(far, 3 * near)
    torch.testing.assert_close(layers.cosines(3 * z, far), layers.cosines(z, near))
    assert layers.cosines(z, layers.projections(z, z)).item() == pytest.approx(1)


def test_cosines_of_nothing_are_nothing():
    z = torch.zeros(1, 5, 2, 2)
    found = layers.cosines(z, layers.projections(z, torch.ones(2, 5, 1, 1)))
    assert torch.equal(found, torch.zeros(1, 2, 2, 2))


def test_warm_up_leaves_backbone_and_last_layer_alone(tmp_path):
    config = TesNet.Config(
        per_class=2,
        depth=5,
        schedule=Schedule(phases=[Phase(name="warm", epochs=1, lr={"add_on": 0.01, "prototypes": 0.01})]),
    )
    work = task(tmp_path, stripes(), config)
    start, fitted = TesNet().build(work), TesNet().fit(work)
    before, after = dict(start.named_parameters()), dict(fitted.named_parameters())
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"add_on_layers", "prototype_vectors"}
    torch.testing.assert_close(fitted.prototype_vectors.norm(dim=1), torch.ones(6, 1, 1))


def config_of(*phases, **rest):
    return TesNet.Config(per_class=2, depth=8, schedule=Schedule(batch_size=12, phases=phases), **rest)


def projected_then(*phases):
    return Phase(name="joint", epochs=30, lr=JOINT, action="project"), *phases


LAST = Phase(name="last", epochs=5, lr={"last_layer": 0.01}, freeze_norm=True)


def source_cosines(model, samples):
    """Cosine of each prototype with the latent patch that the table names as its source."""
    table = model.prototypes
    with torch.no_grad():
        z = model.add_on_layers(model.backbone(samples.images))
        cosines = layers.cosines(z, layers.projections(z, model.prototype_vectors))
    row, column = table.source_patch.unbind(1)
    return cosines[table.source_image, torch.arange(len(table)), row, column]


def test_fit_learns_projects_and_loads_back(tmp_path):
    samples = stripes()
    work = task(tmp_path, samples, config_of(*projected_then(LAST)))
    model = TesNet().fit(work)
    with torch.no_grad():
        assert (model(samples.images).argmax(1) == samples.labels).float().mean() > 0.9
    assert torch.equal(samples.labels[model.prototypes.source_image], torch.arange(6) // 2)
    torch.testing.assert_close(source_cosines(model, samples), torch.ones(6))
    # The patches came at their own lengths; the last layer's steps have normalised them.
    torch.testing.assert_close(model.prototype_vectors.norm(dim=1), torch.ones(6, 1, 1))
    assert work.facts["projected"] == 1
    other = TesNet().build(work)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other(samples.images), model(samples.images))


@pytest.mark.parametrize("official_bugs", [False, True])
def test_official_bugs_move_the_statistics_after_the_projection(tmp_path, official_bugs):
    samples = stripes()
    projected = TesNet().fit(task(tmp_path / "one", samples, config_of(*projected_then())))
    config = config_of(*projected_then(LAST), official_bugs=official_bugs)
    tuned = TesNet().fit(task(tmp_path / "two", samples, config))
    same = {
        name: torch.equal(value, tuned.backbone.state_dict()[name])
        for name, value in projected.backbone.state_dict().items()
    }
    moved = {name.split(".")[-1] for name, equal in same.items() if not equal}
    assert moved == ({"running_mean", "running_var", "num_batches_tracked"} if official_bugs else set())


def test_prototypes_that_learn_on_are_no_longer_training_patches(tmp_path):
    """The published schedule trains all of it after its only projection."""
    work = task(tmp_path, stripes(), config_of(*projected_then(LAST, Phase(name="joint", epochs=1, lr=JOINT))))
    model = TesNet().fit(work)
    assert work.facts["projected"] == 0
    assert "duplicate_share" not in work.facts
    assert (model.prototypes.source_image == -1).all()
    assert (model.prototypes.source_patch == -1).all()


def test_more_prototypes_than_dimensions_are_refused():
    sizes = Sizes(classes=3, images_per_class=10, channels=16, cells=49)
    TesNet.check(config_of(), sizes)
    with pytest.raises(RequestError, match=r"tesnet\.per_class is 9: .* tesnet\.depth = 8"):
        TesNet.check(config_of().model_copy(update={"per_class": 9}), sizes)


def test_published_schedule_epoch_by_epoch():
    """Section 6: five epochs of warm-up, decays that come an epoch early, one projection, twenty last-layer epochs."""
    config = from_recipe(config_file("methods", "tesnet"), TesNet.Config, "published", {}, "tesnet")
    backbone, actions, counts = [], [], {}
    for phase in config.schedule.phases:
        first = counts.get(phase.name, 0)
        counts[phase.name] = first + phase.epochs
        if phase.name != "last":
            backbone += [
                phase.lr.get("backbone", 0) * phase.factor(first + epoch, epoch) for epoch in range(phase.epochs)
            ]
        if phase.action:
            actions.append((phase.action, len(backbone) - 1))
    assert backbone == pytest.approx([0] * 5 + [1e-4] * 4 + [1e-5] * 5 + [1e-6] * 5 + [1e-7])
    assert actions == [("project", 10)]
    assert [phase.name for phase in config.schedule.phases] == ["warm", "joint", "last", "joint"]
    assert counts["last"] == 20
    assert config.schedule.batch_size == 80
    weights = config.cluster, config.separation, config.l1, config.orthonormality, config.subspace
    assert weights == (0.8, 0.08, 1e-4, 1e-4, 1e-7)
