"""Properties that the prototype networks have in common; their formulas are in tests/oracle."""

import pytest
import torch

from baselines import layers
from bench.config.schedule import Phase
from bench.contract import NotApplicable
from bench.training.trainer import Trainer
from tests.support.networks import NETWORKS, changed_groups, reached_groups
from tests.support.samples import Dying, Killed, Silent, stripes, task

ALL = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


@ALL
def test_fit_learns_projects_and_loads_back(network, tmp_path):
    samples = stripes()
    work, model = network.fit(tmp_path, network.joint(30, "project"), *network.last(), **network.learns)
    table = model.prototypes
    (held,) = table.classes.any(1).nonzero(as_tuple=True)
    with torch.no_grad():
        logits = model(samples.images)
        assert (logits.argmax(1) == samples.labels).float().mean() > 0.9
        # A projected prototype is a training patch of one of its classes: it is at no distance from it.
        assert network.to_source(model, samples.images).abs().max() < network.tolerance
    assert table.classes[held, samples.labels[table.source_image[held]]].all()
    assert work.facts["projected"] == 1
    other = network.method().build(work)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other(samples.images), logits)


@ALL
@torch.no_grad()
def test_scores_and_their_connections_add_up_to_the_logits(network, tmp_path):
    model = network.method().build(task(tmp_path, stripes(), network.config())).eval()
    if hasattr(model, "last_layer") and isinstance(model.last_layer, torch.nn.Linear):
        torch.nn.init.normal_(model.last_layer.weight)
    seen = model.explain(stripes().images[:5])
    every = torch.arange(len(model.prototypes)).expand(5, -1)
    try:
        connections = model.connections(every)
    except NotApplicable:
        assert model.not_additive
        return
    added = torch.einsum("np,npc->nc", seen.scores, connections)
    torch.testing.assert_close(added, seen.logits)


@pytest.mark.parametrize(
    ("name", "groups"),
    [(name, set(network.rates) - {"backbone"}) for name, network in NETWORKS.items()]
    + [(name, {"last_layer"}) for name, network in NETWORKS.items() if network.last()],
    ids=lambda value: value if isinstance(value, str) else "-".join(sorted(value)),
)
def test_phase_trains_its_groups_alone(name, groups, tmp_path):
    network = NETWORKS[name]
    _, before = network.fit(tmp_path / "before")
    if name in ("tesnet", "evalprotopnet", "st-protopnet", "support-st"):
        # Their steps make prototypes one long, whether they learn or not.
        for part in getattr(before, "parts", [before]):
            part.prototype_vectors.data = layers.unit(part.prototype_vectors.data)
    _, after = network.fit(tmp_path / "after", Phase(name="one", epochs=1, lr=dict.fromkeys(groups, 0.01)))
    assert changed_groups(network, before, after) == groups


@ALL
def test_every_parameter_is_in_one_group(network, tmp_path):
    work = task(tmp_path, stripes(), network.config())
    learner = network.method().learner(network.method().build(work), work)
    grouped = [parameter for parameters in learner.groups().values() for parameter in parameters]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in learner.parameters()}
    assert len(grouped) == len(list(learner.parameters()))
    assert set(learner.groups()) == set(network.modules)


LATENT = {"backbone", "add_on", "prototypes"}
MOVING = {"backbone", "prototypes", "offsets"}
CLASSES = {"cross_entropy": LATENT | {"last_layer"}, "cluster": LATENT, "separation": LATENT}
REACHED = {
    "protopnet": {**CLASSES, "loss": LATENT | {"last_layer"}},
    "tesnet": {
        **CLASSES, "l1": {"last_layer"}, "orthonormality": {"prototypes"}, "subspace": {"prototypes"},
        "loss": LATENT | {"last_layer"},
    },
    # Which prototypes are near enough to count is taken from the presence, but does not teach it.
    "protopool": {
        **CLASSES, "cross_entropy": LATENT | {"presence", "last_layer"}, "orthogonality": {"presence"},
        "loss": LATENT | {"presence", "last_layer"},
    },
    "deformable": {
        "cross_entropy": MOVING | {"last_layer"}, "cluster": MOVING, "separation": MOVING,
        "orthogonality": {"prototypes"}, "loss": MOVING | {"last_layer"},
    },
    "cosine-head": {"loss": {"backbone", "prototypes", "last_layer"}},
    "st-protopnet": {
        **CLASSES, "l1": {"last_layer"}, "orthonormality": {"prototypes"}, "between_classes": {"prototypes"},
        "loss": LATENT | {"last_layer"},
    },
    "evalprotopnet": {
        **CLASSES, "orthonormality": {"prototypes"}, "alignment": {"backbone"}, "loss": LATENT | {"last_layer"},
    },
    "protopshare": {**CLASSES, "loss": LATENT | {"last_layer"}},
    "prototree": {"loss": LATENT},
    "pixpnet": dict.fromkeys(("cross_entropy", "cluster", "separation", "loss"), LATENT),
}  # fmt: skip


@pytest.mark.parametrize(("name", "term"), [(name, term) for name, terms in REACHED.items() for term in terms])
def test_term_reaches_its_groups_alone(name, term, tmp_path):
    network = NETWORKS[name]
    samples, config = stripes(), network.config(**({"mixup": 0} if name == "protopool" else {}))
    work = task(tmp_path, samples, config)
    torch.manual_seed(0)
    learner = network.method().learner(network.method().build(work), work)
    for phase in network.opening:
        learner.act(phase.action, samples)
    learner.before_epoch(1)
    value = learner(samples.images[::3], samples.labels[::3], "joint")[term]
    assert reached_groups(learner, value) == REACHED[name][term]


@ALL
def test_prototypes_that_learn_on_lose_their_source(network, tmp_path):
    """As in TesNet's published schedule, which trains all of it after its only projection."""
    work, model = network.fit(tmp_path, network.joint(1, "project"), *network.last(), network.joint(1))
    assert (model.prototypes.source_image == -1).all()
    assert (model.prototypes.source_patch == -1).all()
    assert work.facts["projected"] == 0


# After each joint epoch, the last one just before the projection, then after that, and in the last phase.
@pytest.mark.parametrize("death", [1, 2, 3, 4, 5])
@ALL
def test_killed_training_ends_like_whole(network, death, tmp_path):
    """What is drawn in an epoch is drawn again, whoever computes it."""
    phases = network.joint(3, "project"), *(network.last(2) or [network.joint(2)])
    _, whole = network.fit(tmp_path / "whole", *phases)
    work = task(tmp_path / "killed", stripes(), network.config(*phases))
    work.trainer = Dying(tmp_path / "killed", work.device, "fp32", 0, Silent())
    work.trainer.lives = sum(phase.epochs + 1 for phase in network.opening) + death
    with pytest.raises(Killed):
        network.method().fit(work)
    torch.manual_seed(99)
    work.trainer = Trainer(tmp_path / "killed", work.device, "fp32", 0, Silent())
    resumed = network.method().fit(work).state_dict()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed[name]), name
