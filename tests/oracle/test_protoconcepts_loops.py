"""ProtoConcepts against plain loops over numbers, from the formulas of Ma et al., NeurIPS 2023; nothing is shared with
``baselines`` but the weights. A map of latent vectors is a list of the vectors of all cells, row by row.
"""

from math import exp, log, sqrt

import pytest
import torch

from baselines.protoconcepts import ProtoConcepts, ProtoConceptsLearner, ProtoConceptsModel
from baselines.protopnet import ProtoPNetModel
from baselines.protopool import ProtoPoolModel
from baselines.tesnet import TesNetModel
from bench.config.schedule import Schedule
from tests.support.samples import Silent, SmallNet, TensorSamples

CLASSES, PER_CLASS, DEPTH, POOL = 3, 2, 5, 7
LABELS = [0, 2, 1, 0]
M = log(1e4)


@pytest.fixture(params=["protopnet", "tesnet", "protopool"])
def base(request):
    return request.param


@pytest.fixture
def model(base):
    torch.manual_seed(0)
    if base == "protopool":
        network = ProtoPoolModel(SmallNet(), CLASSES, POOL, PER_CLASS, DEPTH)
    else:
        network = {"protopnet": ProtoPNetModel, "tesnet": TesNetModel}[base](SmallNet(), CLASSES, PER_CLASS, DEPTH)
    model = ProtoConceptsModel(network, 0.0).double().eval()
    with torch.no_grad():
        network.last_layer.weight.add_(torch.randn(network.last_layer.weight.shape, dtype=torch.float64))
        if base == "tesnet":
            network.prototype_vectors.copy_(torch.randn(network.prototype_vectors.shape, dtype=torch.float64))
        # Limits at which some similarities are cut and some are not.
        limits = torch.linspace(0.2, 1.4, model.cap_width_l2.numel(), dtype=torch.float64)
        model.cap_width_l2.copy_(torch.log(torch.expm1(M - limits)))
    return model


@pytest.fixture
def images():
    return torch.randn(4, 3, 24, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def config(base, **changed):
    sizes = {"base": base, "per_class": PER_CLASS, "prototypes": POOL, "depth": DEPTH, "mixup": 0, "nearest": 2}
    return ProtoConcepts.Config(**{**sizes, **changed}, schedule=Schedule(phases=[]))


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def length(a):
    return sqrt(dot(a, a))


def latent(model, image):
    network = model.network
    with torch.no_grad():
        points = network.backbone(image[None])[0].flatten(1).T.tolist()
    layers = [layer for layer in network.add_on_layers if hasattr(layer, "weight")]
    for number, layer in enumerate(layers):
        weights, biases = layer.weight[:, :, 0, 0].tolist(), layer.bias.tolist()
        points = [[dot(w, p) + b for w, b in zip(weights, biases, strict=True)] for p in points]
        last = number == len(layers) - 1
        points = [[1 / (1 + exp(-x)) if last else max(x, 0.0) for x in p] for p in points]
    return points


def vectors(model):
    return model.network.prototype_vectors[:, :, 0, 0].tolist()


def log_similarity(d):
    return log((d + 1) / (d + 1e-4))


def distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def similarities(base, model, image):
    """Of every prototype to every cell, uncut."""
    if base == "tesnet":
        return [[dot(z, p) / length(p) for z in latent(model, image)] for p in vectors(model)]
    return [[log_similarity(distance(z, p)) for z in latent(model, image)] for p in vectors(model)]


def limits(model):
    return [M - log(1 + exp(cap)) for cap in model.cap_width_l2[0].tolist()]


def scores_of(base, model, image):
    found = []
    for p, maps, limit in zip(vectors(model), similarities(base, model, image), limits(model), strict=True):
        score = min(max(maps), limit)
        if base == "protopool":
            distances = [distance(z, p) for z in latent(model, image)]
            score -= log_similarity(sum(distances) / len(distances))
        found.append(score)
    return [score * mask for score, mask in zip(found, model.non_vis_mask.tolist(), strict=True)]


def logits_of(base, model, image):
    scores = scores_of(base, model, image)
    if base == "protopool":
        slots = model.network.proto_presence.argmax(1).flatten().tolist()
        scores = [scores[slot] for slot in slots]
    return [dot(row, scores) for row in model.network.last_layer.weight.tolist()]


@pytest.mark.parametrize("masked", [(), (0, 3)])
def test_maps_scores_logits_and_contributions(base, model, images, masked):
    inside = torch.ones(len(model.prototypes), dtype=torch.bool)
    inside[list(masked)] = False
    model.mask(inside)
    classes = torch.tensor([2, 0, 1, 2])
    with torch.no_grad():
        features = model.backbone(images)
        found, shown, own = model.explain(images), model.attribute(features, classes), model.explain(images, classes)
        terms = None if base == "protopool" else model.contributions(features, classes)
    cut = 0
    for i, image in enumerate(images):
        maps, c = similarities(base, model, image), int(classes[i])
        assert found.maps[i].flatten(1).tolist() == [pytest.approx(row, rel=1e-6) for row in maps]
        assert found.scores[i].tolist() == pytest.approx(scores_of(base, model, image), rel=1e-6, abs=1e-9)
        assert found.logits[i].tolist() == pytest.approx(logits_of(base, model, image), rel=1e-6)
        cut += sum(max(row) > limit for row, limit in zip(maps, limits(model), strict=True))
        weights = model.network.last_layer.weight[c].tolist()
        if base == "protopool":
            slots = model.network.proto_presence.argmax(1).flatten().tolist()
            weights = [sum(w for w, slot in zip(weights, slots, strict=True) if slot == j) for j in range(POOL)]
            members = sorted(set(slots[PER_CLASS * c : PER_CLASS * (c + 1)]) - set(masked))
        else:
            members = [j for j in (2 * c, 2 * c + 1) if j not in masked]
        assert [j for j in own.indices[i].tolist() if j >= 0] == members
        weights = [0.0 if j in masked else w for j, w in enumerate(weights)]
        expected = [sum(w * row[u] for w, row in zip(weights, maps, strict=True)) for u in range(len(maps[0]))]
        assert shown[i].flatten().tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)
        if terms is not None:
            placed = [0.0] * len(maps[0])
            for w, row, score in zip(weights, maps, scores_of(base, model, image), strict=True):
                placed[row.index(max(row))] += w * score
            assert terms[i].flatten().tolist() == pytest.approx(placed, rel=1e-6, abs=1e-9)
            assert terms[i].sum().item() == pytest.approx(found.logits[i, c].item(), rel=1e-9)
    assert 0 < cut < 4 * len(model.prototypes)


@pytest.mark.parametrize("form", ["gram", "literal"])
def test_loss(form, base, model, images):
    learner = ProtoConceptsLearner(model, config(base, subspace_form=form), Silent())
    model.network.proto_presence.requires_grad_(False) if base == "protopool" else None
    with torch.no_grad():
        found = learner(images, torch.tensor(LABELS), "joint")
    prototypes, weights = vectors(model), model.network.last_layer.weight.tolist()
    slots = model.network.proto_presence.argmax(1).tolist() if base == "protopool" else None
    entropy, own, separation = 0.0, [], 0.0
    for image, label in zip(images, LABELS, strict=True):
        z, logits = latent(model, image), logits_of(base, model, image)
        entropy -= (logits[label] - log(sum(exp(value) for value in logits))) / len(images)
        if base == "tesnet":
            nearest = [-max(dot(x, p) / length(x) / length(p) for x in z) for p in prototypes]
        else:
            nearest = [min(distance(x, p) for x in z) for p in prototypes]
        members = set(slots[label]) if slots else {2 * label, 2 * label + 1}
        own += sorted(nearest[j] for j in members)[:2]
        separation += min(d for j, d in enumerate(nearest) if j not in members) / len(images)
    foreign = [
        (c, j) for c in range(CLASSES) for j in range(CLASSES * PER_CLASS) if j // PER_CLASS != c
    ]  # columns are prototypes, or slots of classes
    expected = {
        "cross_entropy": entropy,
        "cluster": sum(own) / len(own),
        "separation": separation,
        "l1": sum(abs(weights[c][j]) for c, j in foreign),
        "caps": length(model.cap_width_l2[0].tolist()),
    }
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-6), name
    total = entropy + 0.8 * expected["cluster"] - 0.08 * separation + 1e-4 * expected["l1"] + 0.01 * expected["caps"]
    if base == "tesnet":
        bases = [prototypes[2 * c : 2 * c + 2] for c in range(CLASSES)]
        total += 5e-3 * sum(abs(dot(b[i], b[j]) - (i == j)) for b in bases for i in range(2) for j in range(2))
        operators = [
            [[sum(p[i] * p[j] for p in b) for j in range(DEPTH)] for i in range(DEPTH)] for b in bases
        ]  # the projections onto the subspaces of the classes, if their bases are orthonormal
        apart = sum(
            sqrt(sum((one[i][j] - other[i][j]) ** 2 for i in range(DEPTH) for j in range(DEPTH)))
            for one in operators
            for other in operators
        )
        total -= 5e-5 * apart / (2 * sqrt(2))
    if base == "protopool":
        raw = model.network.proto_presence
        columns = [[raw[c, :, k].tolist() for k in range(PER_CLASS)] for c in range(CLASSES)]
        cosines = sum(dot(a, b) / length(a) / length(b) for own_slots in columns for a in own_slots for b in own_slots)
        total += cosines / (CLASSES * PER_CLASS) - 1
    assert found["loss"].item() == pytest.approx(total, rel=1e-6)


def test_soft_presence_mixes_similarities(images):
    """ProtoPool mixes distances before the similarity."""
    torch.manual_seed(0)
    network = ProtoPoolModel(SmallNet(), CLASSES, POOL, PER_CLASS, DEPTH)
    model = ProtoConceptsModel(network, 8.5).double().eval()
    learner = ProtoConceptsLearner(model, config("protopool"), Silent())
    learner.before_epoch(0)  # at scale 0 the presence is a plain softmax
    found = learner(images, torch.tensor(LABELS), "joint")
    presence = network.proto_presence.softmax(1).tolist()
    entropy = 0.0
    for image, label in zip(images, LABELS, strict=True):
        scores = scores_of("protopool", model, image)
        mixed = [
            sum(scores[p] * presence[c][p][k] for p in range(POOL)) for c in range(CLASSES) for k in range(PER_CLASS)
        ]
        logits = [dot(row, mixed) for row in network.last_layer.weight.tolist()]
        entropy -= (logits[label] - log(sum(exp(value) for value in logits))) / len(images)
    assert found["cross_entropy"].item() == pytest.approx(entropy, rel=1e-6)


def test_gradient_goes_through_the_cut(base, model):
    """Straight through, to the similarity and, as if it were added, to the width: softplus has a sigmoid for slope."""
    top = torch.linspace(-1, 3, len(model.prototypes), dtype=torch.float64)[None].requires_grad_()
    scores = model.cut(top)
    values = [min(t, limit) for t, limit in zip(top[0].tolist(), limits(model), strict=True)]
    assert scores[0].tolist() == pytest.approx(values)
    scores.sum().backward()
    assert top.grad.tolist() == [[1.0] * top.numel()]
    slopes = [1 / (1 + exp(-cap)) for cap in model.cap_width_l2[0].tolist()]
    assert model.cap_width_l2.grad[0].tolist() == pytest.approx(slopes)


def test_mask_counts_the_patches_inside_each_ball(base, model):
    images = torch.randn(9, 3, 24, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = [0, 1, 2, 2, 1, 0, 0, 1, 2]
    with torch.no_grad():
        # Some balls so small that nothing is inside, and one whose limit is below zero.
        model.cap_width_l2[0, :3] = torch.tensor([-5.0, 12.0, 1.0])
    slots = model.network.proto_presence.argmax(1).tolist() if base == "protopool" else None
    counts = [0] * len(model.prototypes)
    for image, label in zip(images, labels, strict=True):
        members = set(slots[label]) if slots else {2 * label, 2 * label + 1}
        for j, (row, limit) in enumerate(zip(similarities(base, model, image), limits(model), strict=True)):
            if j in members:
                counts[j] += sum(value > max(limit, 0.0) for value in row)
    learner = ProtoConceptsLearner(model, config(base), Silent())
    learner.act("mask", TensorSamples(images, torch.tensor(labels), CLASSES))
    assert 0 < sum(count == 0 for count in counts) < len(counts)
    assert learner.patches.tolist() == counts
    assert model.non_vis_mask.tolist() == [float(count > 0) for count in counts]
    assert model.prototypes.classes.any(1).tolist() == [count > 0 for count in counts]
    # No prototype is a patch: what it looks like is in its ball.
    assert (model.prototypes.source_image == -1).all()
    assert learner.facts()["masked"] == sum(count == 0 for count in counts)
