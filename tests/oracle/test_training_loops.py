"""Warm-up and joint training of the published recipes against a plain training loop in double precision.

The loop is written from the descriptions of the official scripts (``main.py`` and ``train_and_test.py`` of
cfchen-duke/ProtoPNet, JackeyWang96/TesNet and gmum/ProtoPool): Adam by its formulas, one optimiser for warm-up and a
new one for joint training, the last layer in neither of them, the decay of the rates epoch by epoch, losses with their
largest-distance trick. It shares the starting weights, the batches and the state of the random generator with the
trainer, and nothing else.
"""

import copy
from math import sqrt

import pytest
import torch
from torch.nn import functional

from baselines.protopnet import ProtoPNet
from baselines.protopool import ProtoPool
from baselines.tesnet import TesNet
from bench.config import schema
from bench.core.paths import config_file
from tests.support.samples import SmallNet, TensorSamples, stripes, task

BATCH, EPOCHS = 9, 5  # of 36 images: 20 steps a stage
SIZES = {
    "protopnet": {"per_class": 2, "depth": 6},
    "tesnet": {"per_class": 2, "depth": 6},
    "protopool": {"prototypes": 7, "slots": 2, "depth": 6},
}
PER_CLASS, SLOTS, CLASSES = 2, 2, 3


class Adam:
    """Kingma and Ba 2015, with the L2 penalty in the gradient; groups are ``[parameters, rate, decay]``."""

    def __init__(self, *groups):
        self.groups, self.count = [[list(parameters), rate, decay] for parameters, rate, decay in groups], 0
        self.moments = {}

    def step(self, factor):
        self.count += 1
        with torch.no_grad():
            for parameters, rate, decay in self.groups:
                for p in parameters:
                    if p.grad is None:
                        continue
                    gradient = p.grad + decay * p
                    first, second = self.moments.get(p, (torch.zeros_like(p), torch.zeros_like(p)))
                    first = 0.9 * first + 0.1 * gradient
                    second = 0.999 * second + 0.001 * gradient**2
                    self.moments[p] = first, second
                    first, second = first / (1 - 0.9**self.count), second / (1 - 0.999**self.count)
                    p -= factor * rate * first / (second.sqrt() + 1e-8)


def latent(net, images):
    z = net.backbone(images)
    layers = [layer for layer in net.add_on_layers if hasattr(layer, "weight")]
    for number, layer in enumerate(layers):
        z = functional.conv2d(z, layer.weight, layer.bias)
        z = torch.sigmoid(z) if number == len(layers) - 1 else z.clamp(min=0)
    return z


def distances(z, prototypes):
    """Squared distances ``(N, P, cells)``, from the differences themselves."""
    return (z.flatten(2)[:, None] - prototypes[None, :, :, 0]).square().sum(2)


def similarity(d):
    return torch.log((d + 1) / (d + 1e-4))


def protopnet_loss(net, images, labels, epoch):
    nearest = distances(latent(net, images), net.prototype_vectors).min(2).values
    logits = similarity(nearest) @ net.last_layer.weight.T
    owner = torch.arange(CLASSES * PER_CLASS) // PER_CLASS
    own = (owner == labels[:, None]).double()
    largest = 6.0  # channels of the latent space
    cluster = (largest - ((largest - nearest) * own).max(1).values).mean()
    separation = (largest - ((largest - nearest) * (1 - own)).max(1).values).mean()
    foreign = (owner != torch.arange(CLASSES)[:, None]).double()
    l1 = (net.last_layer.weight * foreign).abs().sum()
    return functional.cross_entropy(logits, labels) + 0.8 * cluster - 0.08 * separation + 1e-4 * l1


def tesnet_loss(net, images, labels, epoch, weight=1e-4):
    z, prototypes = latent(net, images), net.prototype_vectors[:, :, 0, 0]
    unit = prototypes / prototypes.norm(dim=1, keepdim=True)
    logits = torch.einsum("ndhw,pd->nphw", z, unit).amax((2, 3)) @ net.last_layer.weight.T
    cosines = torch.einsum("ndhw,pd->nphw", z / z.norm(dim=1, keepdim=True), unit).amax((2, 3))
    owner = torch.arange(CLASSES * PER_CLASS) // PER_CLASS
    own = owner == labels[:, None]
    cluster = -cosines.masked_fill(~own, -9).max(1).values.mean()
    separation = -cosines.masked_fill(own, -9).max(1).values.mean()
    l1 = (net.last_layer.weight * (owner != torch.arange(CLASSES)[:, None])).abs().sum()
    bases = [prototypes[owner == label] for label in range(CLASSES)]
    orthonormality = sum((basis @ basis.T - torch.eye(PER_CLASS).double()).abs().sum() for basis in bases)
    operators = [basis.T @ basis for basis in bases]
    apart = sum((a - b + 1e-10).norm() for a in operators for b in operators) / (2 * sqrt(2))
    loss = functional.cross_entropy(logits, labels) + 0.8 * cluster - 0.08 * separation + 1e-4 * l1
    return loss + weight * orthonormality - 1e-7 * apart


def protopool_loss(net, images, labels, epoch):
    share = float(torch.distributions.Beta(0.5, 0.5).sample())
    partner = torch.randperm(len(images))
    images = share * images + (1 - share) * images[partner]
    presence = net.proto_presence
    if epoch == 0:
        drawn = presence.softmax(1)
    else:
        scale = 1.3 * sqrt((1000 / 1.3) ** 2 / 30 * epoch)
        noise = -torch.empty_like(presence).exponential_().log()
        drawn = ((scale * presence + noise) / 0.5).softmax(1)
    d = distances(latent(net, images), net.prototype_vectors)
    nearest, average = d.min(2).values, d.mean(2)
    focal = similarity(torch.einsum("np,cpk->nck", nearest, drawn)) - similarity(
        torch.einsum("np,cpk->nck", average, drawn)
    )
    logits = focal.flatten(1) @ net.last_layer.weight.T
    near = drawn.detach().sum(2).topk(SLOTS, dim=1).indices[labels]
    far = (1 - drawn.detach()).sum(2).topk(drawn.shape[1] - SLOTS, dim=1).indices[labels]
    cluster = nearest.gather(1, near).min(1).values.mean()
    separation = nearest.gather(1, far).min(1).values.mean()
    owner = torch.arange(CLASSES * SLOTS) // SLOTS
    l1 = (net.last_layer.weight * (owner != torch.arange(CLASSES)[:, None])).abs().sum()
    unit = presence / presence.norm(dim=1, keepdim=True)
    overlap = torch.einsum("cpk,cpl->ckl", unit, unit).sum() / (CLASSES * SLOTS) - 1
    entropy = share * functional.cross_entropy(logits, labels)
    entropy = entropy + (1 - share) * functional.cross_entropy(logits, labels[partner])
    return entropy + 0.8 * cluster - 0.08 * separation + 1e-4 * l1 + overlap


def protopnet_stages(net):
    add_on, vectors = net.add_on_layers.parameters(), [net.prototype_vectors]
    yield Adam((add_on, 3e-3, 1e-3), (vectors, 3e-3, 0)), lambda epoch: 1.0
    # The scheduler is stepped before each epoch, so the rates fall once four epochs are over.
    joint = Adam(
        (net.backbone.parameters(), 1e-4, 1e-3), (net.add_on_layers.parameters(), 3e-3, 1e-3), (vectors, 3e-3, 0)
    )
    yield joint, lambda epoch: 0.1 if epoch >= 4 else 1.0


def protopool_stages(net):
    rate = 5e-4
    parts = [([net.proto_presence], 3 * rate, 0), ([net.prototype_vectors], 3 * rate, 0)]
    yield Adam((net.add_on_layers.parameters(), 3 * rate, 1e-3), *parts), lambda epoch: 1.0
    joint = Adam((net.backbone.parameters(), rate / 10, 1e-3), (net.add_on_layers.parameters(), 3 * rate, 1e-3), *parts)
    yield joint, lambda epoch: 1.0  # the first decay comes after five epochs


def tesnet_loss_without_orthonormality(net, images, labels, epoch):
    return tesnet_loss(net, images, labels, epoch, weight=0)


CASES = {
    "protopnet": (ProtoPNet, protopnet_loss, protopnet_stages),
    "tesnet": (TesNet, tesnet_loss, protopnet_stages),
    "protopool": (ProtoPool, protopool_loss, protopool_stages),
}


class Recorded:
    """A learner's batches, and the state of torch's generator before each of them."""

    def __init__(self, learner):
        self.steps, forward = [], learner.forward

        def recording(images, labels, phase):
            self.steps.append((images.clone(), labels.clone(), torch.get_rng_state()))
            return forward(images, labels, phase)

        learner.forward = recording


def published(name, **settings):
    """The first two phases of the published recipe, five epochs each, without its action and its augmentation."""
    method = CASES[name][0]
    overrides = {f"{name}.{key}": value for key, value in (SIZES[name] | settings).items()}
    config = schema.from_recipe(config_file("methods", name), method.Config, "published", overrides, name)
    phases = tuple(phase.model_copy(update={"epochs": EPOCHS, "action": None}) for phase in config.schedule.phases[:2])
    assert [phase.name for phase in phases] == ["warm", "joint"]
    update = {"phases": phases, "batch_size": BATCH, "repeat": 1, "augment": "none"}
    return config.model_copy(update={"schedule": config.schedule.model_copy(update=update)})


# The slope of |B B^T - I| at unit vectors is the sign of a rounding error: with that term TesNet's prototypes agree
# to a hundredth of what they move, without it as exactly as the others.
@pytest.mark.parametrize(
    ("name", "settings", "tolerance"),
    [
        ("protopnet", {}, 1e-9),
        ("protopool", {}, 1e-9),
        ("tesnet", {"orthonormality": 0.0}, 1e-9),
        ("tesnet", {}, 2e-4),
    ],
)
def test_published_training_is_the_official_loop(name, settings, tolerance, tmp_path):
    method, loss_of, stages_of = CASES[name]
    loss_of = tesnet_loss_without_orthonormality if settings else loss_of
    few = stripes()
    samples = TensorSamples(few.images.double(), few.labels, CLASSES)
    work = task(tmp_path, samples, published(name, **settings))
    work.backbone = lambda: SmallNet()
    model = method().build(work).double()
    plain = copy.deepcopy(model)
    learner = method().learner(model, work)
    recorded = Recorded(learner)
    work.trainer.fit(learner, work.config.schedule, samples)
    assert len(recorded.steps) == 2 * EPOCHS * len(samples) // BATCH

    plain.train()
    steps = iter(recorded.steps)
    for number, (optimizer, factor) in enumerate(stages_of(plain)):
        learning = {p for parameters, *_ in optimizer.groups for p in parameters}
        for parameter in plain.parameters():
            parameter.requires_grad_(parameter in learning)
        for epoch in range(EPOCHS):
            for _ in range(len(samples) // BATCH):
                images, labels, state = next(steps)
                torch.set_rng_state(state)
                plain.zero_grad()
                loss_of(plain, images, labels, number * EPOCHS + epoch).backward()
                optimizer.step(factor(epoch))
                if name == "tesnet":
                    with torch.no_grad():
                        plain.prototype_vectors /= plain.prototype_vectors.norm(dim=1, keepdim=True)
    moved = dict(model.named_parameters())
    assert len(moved) > 4
    for key, value in plain.named_parameters():
        torch.testing.assert_close(
            moved[key], value, rtol=1e-7, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )
    for key, value in plain.named_buffers():
        if "running" in key:
            torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-9, atol=tolerance)
