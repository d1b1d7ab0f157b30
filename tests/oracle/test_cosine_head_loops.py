"""The cosine head against plain loops over numbers; nothing is shared with ``baselines`` but the weights.

A map of feature vectors is a list ``[row][column][channel]``.
"""

from math import exp, log, sqrt

import pytest
import torch

from baselines import starts
from baselines.cosine_head import CosineHead, CosineHeadLearner, CosineHeadModel
from bench.config.schedule import Schedule
from tests.support.samples import Silent, SmallNet, TensorSamples

CLASSES, PER_CLASS = 3, 2
OWNER = [0, 0, 1, 1, 2, 2]


def network():
    torch.manual_seed(0)
    return CosineHeadModel(SmallNet(), CLASSES, PER_CLASS).double().eval()


@pytest.fixture
def model():
    model = network()
    with torch.no_grad():
        # Signs and lengths of their own, so that a missing normalisation or a wrong class shows.
        model.prototype_vectors.copy_(torch.randn(model.prototype_vectors.shape, dtype=torch.float64))
        model.last_layer.weight.add_(torch.randn(model.last_layer.weight.shape, dtype=torch.float64))
    return model


def drawn(count, seed):
    return torch.randn(count, 3, 24, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def length(a):
    return sqrt(sum(x * x for x in a))


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (length(a) * length(b))


def features(model, image):
    with torch.no_grad():
        return model.backbone(image[None])[0].permute(1, 2, 0).tolist()


def vectors(model):
    return model.prototype_vectors[:, :, 0, 0].tolist()


def presence(model, image, prototype):
    return [[cosine(point, prototype) for point in row] for row in features(model, image)]


def highest(grid):
    return max(value for row in grid for value in row)


def logits_of(model, image):
    scores = [highest(presence(model, image, prototype)) for prototype in vectors(model)]
    return [sum(w * s for w, s in zip(row, scores, strict=True)) for row in model.last_layer.weight.tolist()]


def test_maps_scores_logits_and_attribution(model):
    images, classes = drawn(4, 1), [2, 0, 1, 2]
    with torch.no_grad():
        found = model.explain(images)
        shown = model.attribute(model.backbone(images), torch.tensor(classes))
        parts = model.contributions(model.backbone(images), torch.tensor(classes))
    for i, image in enumerate(images):
        grids = [presence(model, image, prototype) for prototype in vectors(model)]
        weights = model.last_layer.weight[classes[i]].tolist()
        for j, grid in enumerate(grids):
            assert found.maps[i, j].tolist() == [pytest.approx(row, rel=1e-9) for row in grid]
            assert found.scores[i, j].item() == pytest.approx(highest(grid), rel=1e-9)
        assert found.logits[i].tolist() == pytest.approx(logits_of(model, image), rel=1e-9)
        for y in range(len(grids[0])):
            for x in range(len(grids[0][0])):
                terms = [w * grid[y][x] for w, grid in zip(weights, grids, strict=True)]
                whole = [term for term, grid in zip(terms, grids, strict=True) if grid[y][x] == highest(grid)]
                assert shown[i, y, x].item() == pytest.approx(sum(terms), rel=1e-9)
                assert parts[i, y, x].item() == pytest.approx(sum(whole), rel=1e-9)


def test_loss_is_the_cross_entropy_alone(model):
    images, labels = drawn(4, 1), [0, 2, 1, 0]
    config = CosineHead.Config(schedule=Schedule(phases=[]))
    with torch.no_grad():
        found = CosineHeadLearner(model, config, Silent())(images, torch.tensor(labels), "warm")
    logits = [logits_of(model, image) for image in images]
    entropy = [log(sum(map(exp, row))) - row[label] for row, label in zip(logits, labels, strict=True)]
    right = [row.index(max(row)) == label for row, label in zip(logits, labels, strict=True)]
    assert found["loss"].item() == pytest.approx(sum(entropy) / 4, rel=1e-9)
    assert found["train_accuracy"].item() == pytest.approx(sum(right) / 4)


def test_projection_takes_the_nearest_direction_at_length_one(model):
    images, labels = drawn(9, 3), [0, 1, 2, 2, 1, 0, 0, 1, 2]
    before = vectors(model)
    learner = CosineHeadLearner(model, CosineHead.Config(schedule=Schedule(phases=[])), Silent())
    learner.act("project", TensorSamples(images, torch.tensor(labels), CLASSES))
    table = model.prototypes
    for j, prototype in enumerate(before):
        cells = [
            (cosine(point, prototype), [i, y, x], [value / length(point) for value in point])
            for i, image in enumerate(images)
            if labels[i] == OWNER[j]
            for y, row in enumerate(features(model, image))
            for x, point in enumerate(row)
        ]
        _, source, patch = max(cells, key=lambda one: one[0])
        assert [table.source_image[j].item(), *table.source_patch[j].tolist()] == source
        assert vectors(model)[j] == pytest.approx(patch, rel=1e-9)


def test_start_is_the_class_identity_on_means_of_directions():
    """Lloyd's rounds have converged: each prototype is the mean of the foreground directions nearest to it."""
    model, images = network(), drawn(9, 3)
    samples = TensorSamples(images, torch.tensor([0, 1, 2] * 3), CLASSES)
    starts.prepare(model, starts.Start(prototypes="kmeans"), samples, 0, Silent())
    assert model.last_layer.weight.tolist() == [[float(owner == c) for owner in OWNER] for c in range(CLASSES)]
    for label in range(CLASSES):
        points = []
        for image in images[label::3]:
            cells = sorted((point for row in features(model, image) for point in row), key=sum, reverse=True)
            points += [[x / length(point) for x in point] for point in cells[: len(cells) // 4]]
        means = [vector for vector, owner in zip(vectors(model), OWNER, strict=True) if owner == label]
        groups = [[], []]
        for point in points:
            gaps = [length([a - b for a, b in zip(point, mean, strict=True)]) for mean in means]
            groups[gaps.index(min(gaps))].append(point)
        for mean, group in zip(means, groups, strict=True):
            assert mean == pytest.approx([sum(values) / len(group) for values in zip(*group, strict=True)], rel=1e-9)
