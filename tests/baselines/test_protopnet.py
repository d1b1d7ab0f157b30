"""ProtoPNet against formulas written out element by element (Chen et al., NeurIPS 2019)."""

import math

import pytest
import torch

from baselines import layers
from baselines.protopnet import ProtoPNet, ProtoPNetLearner, ProtoPNetModel
from bench.config.schedule import Schedule
from tests.support.samples import Silent, SmallNet


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ProtoPNetModel(SmallNet(), classes=3, per_class=2, depth=5).eval()


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def slow_distances(z, prototypes):
    n, _, h, w = z.shape
    found = torch.zeros(n, len(prototypes), h, w)
    for i in range(n):
        for j in range(len(prototypes)):
            for y in range(h):
                for x in range(w):
                    found[i, j, y, x] = sum(
                        (a - b) ** 2 for a, b in zip(z[i, :, y, x], prototypes[j, :, 0, 0], strict=True)
                    )
    return found


def test_distances_element_by_element():
    g = torch.Generator().manual_seed(0)
    z, p = torch.rand(2, 5, 3, 4, generator=g), torch.rand(6, 5, 1, 1, generator=g)
    torch.testing.assert_close(layers.squared_distances(z, p), slow_distances(z, p), rtol=1e-4, atol=1e-5)


def test_distance_to_itself_is_not_negative():
    z = torch.rand(1, 64, 2, 2, generator=torch.Generator().manual_seed(0))
    p = z[0, :, 1, 0][None, :, None, None]
    d = layers.squared_distances(z, p)
    assert (d >= 0).all()
    assert d[0, 0, 1, 0] == pytest.approx(0, abs=1e-5)


def test_distances_stay_exact_under_bfloat16():
    g = torch.Generator().manual_seed(0)
    z, p = torch.rand(2, 128, 3, 3, generator=g), torch.rand(4, 128, 1, 1, generator=g)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layers.squared_distances(z, p), slow_distances(z, p), rtol=1e-4, atol=1e-4)


def test_similarity_by_hand():
    d = torch.tensor([0.0, 1.0, 9.0])
    expected = torch.tensor([math.log(1e4), math.log(2 / 1.0001), math.log(10 / 9.0001)])
    torch.testing.assert_close(layers.log_similarity(d), expected)


def test_forward_element_by_element(model, images):
    with torch.no_grad():
        z = model.add_on_layers(model.backbone(images))
        d = slow_distances(z, model.prototype_vectors)
        logits, explanation = model(images), model.explain(images)
        for i in range(4):
            similarity = [math.log((d[i, j].min() + 1) / (d[i, j].min() + 1e-4)) for j in range(6)]
            for c in range(3):
                expected = sum((1.0 if j // 2 == c else -0.5) * similarity[j] for j in range(6))
                assert logits[i, c].item() == pytest.approx(expected, rel=1e-4)
            assert explanation.scores[i].tolist() == pytest.approx(similarity, rel=1e-4)
    torch.testing.assert_close(explanation.maps, torch.log((d + 1) / (d + 1e-4)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(explanation.logits, logits)


def test_explaining_some_classes_is_a_part_of_explaining_all(model, images):
    classes = torch.tensor([2, 0, 1, 2])
    with torch.no_grad():
        everything, own = model.explain(images), model.explain(images, classes)
    assert own.indices.tolist() == [[4, 5], [0, 1], [2, 3], [4, 5]]
    for i in range(4):
        torch.testing.assert_close(own.maps[i], everything.maps[i, own.indices[i]])
        torch.testing.assert_close(own.scores[i], everything.scores[i, own.indices[i]])


def test_the_displayed_attribution_weights_the_maps(model, images):
    with torch.no_grad():
        features = model.backbone(images)
        maps = model.head(features).maps
        found = model.attribute(features, torch.tensor([1, 1, 1, 1]))
    expected = sum((1.0 if j in (2, 3) else -0.5) * maps[:, j] for j in range(6))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_losses_element_by_element(model, images):
    labels = torch.tensor([0, 2, 1, 0])
    config = ProtoPNet.Config(schedule=Schedule(phases=[]))
    with torch.no_grad():
        model.last_layer.weight.add_(torch.randn(3, 6, generator=torch.Generator().manual_seed(2)))
        losses = ProtoPNetLearner(model, config, Silent())(images, labels, "joint")
        nearest = slow_distances(model.add_on_layers(model.backbone(images)), model.prototype_vectors).amin((2, 3))
        logits = model(images)
    cluster = separation = entropy = 0.0
    for i, label in enumerate(labels.tolist()):
        own = [2 * label, 2 * label + 1]
        cluster += min(nearest[i, j].item() for j in own) / 4
        separation += min(nearest[i, j].item() for j in range(6) if j not in own) / 4
        entropy -= math.log(math.exp(logits[i, label]) / sum(math.exp(value) for value in logits[i])) / 4
    l1 = sum(abs(model.last_layer.weight[c, j].item()) for c in range(3) for j in range(6) if j // 2 != c)
    assert losses["cluster"].item() == pytest.approx(cluster, rel=1e-4)
    assert losses["separation"].item() == pytest.approx(separation, rel=1e-4)
    assert losses["cross_entropy"].item() == pytest.approx(entropy, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(entropy + 0.8 * cluster - 0.08 * separation + 1e-4 * l1, rel=1e-4)
