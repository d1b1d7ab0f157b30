"""EvalProtoPNet against plain loops over numbers, from the formulas of Huang et al., ICCV 2023; nothing is shared with
``baselines`` but the weights. A map of latent vectors is a list ``[row][column][channel]``.
"""

from math import exp, log, sqrt

import pytest
import torch

from baselines.evalprotopnet import Aggregation, EvalProtoPNet, EvalProtoPNetLearner
from baselines.tesnet import TesNetModel
from bench.config.schedule import Schedule
from tests.support.samples import Silent, SmallNet

CLASSES, PER_CLASS, DEPTH = 3, 2, 5
LABELS = [0, 2, 1, 0]


@pytest.fixture
def model():
    torch.manual_seed(0)
    aggregation = Aggregation(CLASSES, PER_CLASS)
    model = TesNetModel(SmallNet(), CLASSES, PER_CLASS, DEPTH, 1, aggregation).double().eval()
    with torch.no_grad():
        # Signs and lengths of their own, so that a missing normalisation or transposition shows.
        model.prototype_vectors.copy_(torch.randn(model.prototype_vectors.shape, dtype=torch.float64))
        aggregation.activation_weight.copy_(torch.randn(6, dtype=torch.float64))
        model.add_on_layers[0].weight.mul_(3)
        model.add_on_layers[0].bias.copy_(torch.randn(DEPTH, dtype=torch.float64))
    return model


@pytest.fixture
def images():
    return torch.randn(4, 3, 24, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def cosine(a, b):
    return dot(a, b) / sqrt(dot(a, a)) / sqrt(dot(b, b))


def grid(features):
    return features.permute(1, 2, 0).tolist()


def latent(model, image):
    """One convolution and a sigmoid, at every cell of the backbone's features."""
    with torch.no_grad():
        features = grid(model.backbone(image[None])[0])
    layer = model.add_on_layers[0]
    rows = list(zip(layer.weight[:, :, 0, 0].tolist(), layer.bias.tolist(), strict=True))
    return [[[1 / (1 + exp(-dot(w, point) - b)) for w, b in rows] for point in row] for row in features]


def vectors(model):
    return model.prototype_vectors[:, :, 0, 0].tolist()


def projections(z, prototype):
    return [[dot(point, prototype) / sqrt(dot(prototype, prototype)) for point in row] for row in z]


def own_weights(model, label):
    """Softmax over the class's prototypes, times their number."""
    raw = model.last_layer.activation_weight.tolist()[PER_CLASS * label : PER_CLASS * (label + 1)]
    total = sum(exp(value) for value in raw)
    return [PER_CLASS * exp(value) / total for value in raw]


def logits_of(model, image):
    z = latent(model, image)
    scores = [max(map(max, projections(z, p))) for p in vectors(model)]
    return [dot(own_weights(model, c), scores[PER_CLASS * c : PER_CLASS * (c + 1)]) for c in range(CLASSES)]


def test_maps_scores_logits_and_attribution(model, images):
    classes = torch.tensor([2, 0, 1, 2])
    with torch.no_grad():
        found, shown = model.explain(images), model.attribute(model.backbone(images), classes)
        contributed = model.contributions(model.backbone(images), classes)
    for i, image in enumerate(images):
        z, c = latent(model, image), int(classes[i])
        maps = [projections(z, p) for p in vectors(model)]
        for j in range(6):
            assert found.maps[i, j].tolist() == [pytest.approx(row, rel=1e-9) for row in maps[j]]
            assert found.scores[i, j].item() == pytest.approx(max(map(max, maps[j])), rel=1e-9)
        assert found.logits[i].tolist() == pytest.approx(logits_of(model, image), rel=1e-9)
        own = list(zip(own_weights(model, c), maps[PER_CLASS * c : PER_CLASS * (c + 1)], strict=True))
        for y, row in enumerate(z):
            for x in range(len(row)):
                assert shown[i, y, x].item() == pytest.approx(sum(w * m[y][x] for w, m in own), rel=1e-9)
                peaks = sum(w * m[y][x] for w, m in own if m[y][x] == max(map(max, m)))
                assert contributed[i, y, x].item() == pytest.approx(peaks, rel=1e-9)


def alignment_of(model, images):
    """Rows of the two matrices of cosines at the own prototypes' first maxima; the mean excess over the tolerance."""
    excesses = []
    for image, label in zip(images, LABELS, strict=True):
        with torch.no_grad():
            shallow, deep = grid(model.backbone.body[:3](image[None])[0]), grid(model.backbone(image[None])[0])
        height, width = len(deep), len(deep[0])
        tall, wide = len(shallow) // height, len(shallow[0]) // width
        assert (tall, wide) == (2, 2)
        stacked = [
            [
                [x for a in range(tall) for b in range(wide) for x in shallow[tall * y + a][wide * x0 + b]]
                for x0 in range(width)
            ]
            for y in range(height)
        ]
        z = latent(model, image)
        for j in range(PER_CLASS * label, PER_CLASS * (label + 1)):
            values = projections(z, vectors(model)[j])
            top = max(map(max, values))
            y, x = next((y, x) for y in range(height) for x in range(width) if values[y][x] == top)
            for v in range(height):
                for u in range(width):
                    difference = cosine(deep[y][x], deep[v][u]) - cosine(stacked[y][x], stacked[v][u])
                    excesses.append(max(abs(difference) - 0.1, 0.0))
    return sum(excesses) / len(excesses)


def terms_of(model, images):
    entropy = cluster = separation = 0.0
    prototypes = vectors(model)
    for image, label in zip(images, LABELS, strict=True):
        z, logits = latent(model, image), logits_of(model, image)
        entropy -= (logits[label] - log(sum(exp(value) for value in logits))) / len(images)
        cosines = [max(cosine(point, p) for row in z for point in row) for p in prototypes]
        cluster -= max(value for j, value in enumerate(cosines) if j // PER_CLASS == label) / len(images)
        separation -= max(value for j, value in enumerate(cosines) if j // PER_CLASS != label) / len(images)
    orthonormality = sum(
        abs(dot(prototypes[PER_CLASS * c + a], prototypes[PER_CLASS * c + b]) - (a == b))
        for c in range(CLASSES)
        for a in range(PER_CLASS)
        for b in range(PER_CLASS)
    )
    return {
        "cross_entropy": entropy,
        "cluster": cluster,
        "separation": separation,
        "orthonormality": orthonormality,
        "alignment": alignment_of(model, images),
    }


@pytest.mark.parametrize("rest", [False, True], ids=["backbone learns", "backbone at rest"])
def test_loss(model, images, rest):
    model.backbone.requires_grad_(not rest)
    config = EvalProtoPNet.Config(schedule=Schedule(phases=[]))
    found = EvalProtoPNetLearner(model, config, Silent())(images, torch.tensor(LABELS), "joint")
    expected = terms_of(model, images)
    assert expected["alignment"] > 0.01
    total = (
        expected["cross_entropy"]
        + 0.8 * expected["cluster"]
        - 0.08 * expected["separation"]
        + 1e-4 * expected["orthonormality"]
    )
    if rest:
        del expected["alignment"]
    else:
        total += 0.5 * expected["alignment"]
    assert set(found) == {*expected, "loss", "train_accuracy"}
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-8), name
    assert found["loss"].item() == pytest.approx(total, rel=1e-10)


def test_alignment_teaches_the_deep_features_alone(model, images):
    learner = EvalProtoPNetLearner(model, EvalProtoPNet.Config(schedule=Schedule(phases=[])), Silent())
    learner(images, torch.tensor(LABELS), "joint")["alignment"].backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {
        "backbone.body.0.weight", "backbone.body.0.bias", "backbone.body.1.weight", "backbone.body.1.bias",
        "backbone.body.3.weight", "backbone.body.3.bias",
    }  # fmt: skip
