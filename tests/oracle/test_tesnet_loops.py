"""TesNet against plain loops over numbers, written from the formulas of Wang et al., ICCV 2021; nothing is shared
with ``baselines`` but the weights. A map of latent vectors is a list ``[row][column][channel]``.
"""

from math import exp, log, sqrt

import pytest
import torch

from baselines.tesnet import TesNet, TesNetLearner, TesNetModel
from bench.config.schedule import Schedule
from tests.support.samples import Silent, SmallNet, TensorSamples

CLASSES, PER_CLASS, DEPTH = 3, 2, 5
OWNER = [0, 0, 1, 1, 2, 2]


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = TesNetModel(SmallNet(), CLASSES, PER_CLASS, DEPTH).double().eval()
    with torch.no_grad():
        # Signs and lengths of their own, so that a missing normalisation, transposition or absolute value shows.
        model.prototype_vectors.copy_(torch.randn(model.prototype_vectors.shape, dtype=torch.float64))
        model.last_layer.weight.add_(torch.randn(model.last_layer.weight.shape, dtype=torch.float64))
        for layer in (0, 2):
            model.add_on_layers[layer].weight.mul_(3)
            model.add_on_layers[layer].bias.copy_(torch.randn(DEPTH, dtype=torch.float64))
    return model


@pytest.fixture
def images():
    return torch.randn(4, 3, 24, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def length(a):
    return sqrt(dot(a, a))


def dense(layer, point):
    return [
        bias + dot([w[0][0] for w in row], point)
        for row, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]


def latent(model, image):
    """Convolution, ReLU, convolution, sigmoid, at every cell of the backbone's features."""
    with torch.no_grad():
        features = model.backbone(image[None])[0].permute(1, 2, 0).tolist()
    hidden = [[[max(x, 0.0) for x in dense(model.add_on_layers[0], point)] for point in row] for row in features]
    return [[[1 / (1 + exp(-x)) for x in dense(model.add_on_layers[2], point)] for point in row] for row in hidden]


def vectors(model):
    return model.prototype_vectors[:, :, 0, 0].tolist()


def projection_map(z, prototype):
    return [[dot(point, prototype) / length(prototype) for point in row] for row in z]


def highest(grid):
    return max(value for row in grid for value in row)


def logits_of(model, image):
    z = latent(model, image)
    scores = [highest(projection_map(z, p)) for p in vectors(model)]
    return [dot(row, scores) for row in model.last_layer.weight.tolist()]


def test_maps_scores_and_logits(model, images):
    with torch.no_grad():
        found = model.explain(images)
    for i, image in enumerate(images):
        z = latent(model, image)
        for j, prototype in enumerate(vectors(model)):
            expected = projection_map(z, prototype)
            assert found.maps[i, j].tolist() == [pytest.approx(row, rel=1e-9) for row in expected]
            assert found.scores[i, j].item() == pytest.approx(highest(expected), rel=1e-9)
        assert found.logits[i].tolist() == pytest.approx(logits_of(model, image), rel=1e-9)


def test_attribution(model, images):
    classes = [2, 0, 1, 2]
    with torch.no_grad():
        found = model.attribute(model.backbone(images), torch.tensor(classes))
    for i, c in enumerate(classes):
        maps = [projection_map(latent(model, images[i]), p) for p in vectors(model)]
        weights = model.last_layer.weight[c].tolist()
        for y in range(found.shape[1]):
            for x in range(found.shape[2]):
                expected = sum(w * grid[y][x] for w, grid in zip(weights, maps, strict=True))
                assert found[i, y, x].item() == pytest.approx(expected, rel=1e-9)


def terms_of(model, images, labels):
    """The six terms of the loss."""
    prototypes = vectors(model)
    entropy = cluster = separation = 0.0
    for image, label in zip(images, labels, strict=True):
        z, logits = latent(model, image), logits_of(model, image)
        entropy -= (logits[label] - log(sum(exp(value) for value in logits))) / len(images)
        cosines = [max(dot(point, p) / length(point) / length(p) for row in z for point in row) for p in prototypes]
        cluster -= max(value for value, owner in zip(cosines, OWNER, strict=True) if owner == label) / len(images)
        separation -= max(value for value, owner in zip(cosines, OWNER, strict=True) if owner != label) / len(images)
    weights = model.last_layer.weight.tolist()
    l1 = sum(abs(weights[c][j]) for c in range(CLASSES) for j in range(6) if OWNER[j] != c)
    bases = [[p for p, owner in zip(prototypes, OWNER, strict=True) if owner == c] for c in range(CLASSES)]
    orthonormality = sum(
        abs(dot(basis[a], basis[b]) - (a == b)) for basis in bases for a in range(PER_CLASS) for b in range(PER_CLASS)
    )
    operators = [[[sum(p[a] * p[b] for p in basis) for b in range(DEPTH)] for a in range(DEPTH)] for basis in bases]
    subspace = 0.0
    for one in operators:
        for other in operators:
            squares = [(one[a][b] - other[a][b]) ** 2 for a in range(DEPTH) for b in range(DEPTH)]
            subspace += sqrt(sum(squares)) / (2 * sqrt(2))
    return {
        "cross_entropy": entropy,
        "cluster": cluster,
        "separation": separation,
        "l1": l1,
        "orthonormality": orthonormality,
        "subspace": subspace,
    }


@pytest.mark.parametrize("form", ["gram", "literal"])
def test_loss(model, images, form):
    config = TesNet.Config(subspace_form=form, schedule=Schedule(phases=[]))
    labels = [0, 2, 1, 0]
    with torch.no_grad():
        found = TesNetLearner(model, config, Silent())(images, torch.tensor(labels), "joint")
    expected = terms_of(model, images, labels)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-8), name
    total = (
        expected["cross_entropy"]
        + 0.8 * expected["cluster"]
        - 0.08 * expected["separation"]
        + 1e-4 * expected["l1"]
        + 1e-4 * expected["orthonormality"]
        - 1e-7 * expected["subspace"]
    )
    assert found["loss"].item() == pytest.approx(total, rel=1e-10)


def test_projection(model):
    images = torch.randn(9, 3, 24, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = [0, 1, 2, 2, 1, 0, 0, 1, 2]
    before = vectors(model)
    learner = TesNetLearner(model, TesNet.Config(schedule=Schedule(phases=[])), Silent())
    learner.act("project", TensorSamples(images, torch.tensor(labels), CLASSES))
    table = model.prototypes
    for j, prototype in enumerate(before):
        best, source, patch = -float("inf"), None, None
        for i, image in enumerate(images):
            if labels[i] != OWNER[j]:
                continue
            for y, row in enumerate(latent(model, image)):
                for x, point in enumerate(row):
                    if dot(point, prototype) / length(prototype) > best:
                        best, source, patch = dot(point, prototype) / length(prototype), [i, y, x], point
        assert [table.source_image[j].item(), *table.source_patch[j].tolist()] == source
        # The patch itself, at its own length.
        assert vectors(model)[j] == pytest.approx(patch, rel=1e-9)


def test_step_normalises_prototypes_and_moves_nothing_else(model):
    before, others = vectors(model), {name: value.clone() for name, value in model.state_dict().items()}
    TesNetLearner(model, TesNet.Config(schedule=Schedule(phases=[])), Silent()).after_step()
    for old, new in zip(before, vectors(model), strict=True):
        assert new == pytest.approx([x / length(old) for x in old], rel=1e-9)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, others[name])}
    assert changed == {"prototype_vectors"}
