"""EPIC's mix of channels: exactness, and its images, cells, loss and choice of channels against plain loops."""

import itertools
import types
from math import sqrt

import numpy as np
import pytest
import torch

from baselines.epic import EPIC, train_mix
from bench.contract import RequestError
from bench.models.classifier import Classifier
from metrics.explanation_size import ExplanationSize
from metrics.sufficiency import Sufficiency
from tests.support.ragged_model import measure
from tests.support.samples import Silent, SmallNet, stripes, task


def fit(folder, **settings):
    torch.manual_seed(4)
    samples, box = stripes(), Classifier(SmallNet(), 3).eval()
    work = task(folder, samples, EPIC.Config(**{"k": 3, "first": 6, "lr": 0.02, **settings}), black_box=box)
    return EPIC().fit(work), samples, box, work


@pytest.mark.parametrize("matrix", ["orthogonal", "general"])
def test_all_channels_together_are_the_logits(tmp_path, matrix):
    model, samples, box, work = fit(tmp_path, matrix=matrix)
    with torch.no_grad():
        mixed = torch.einsum("ndhw,jd->njhw", model.backbone(samples.images).double(), model.prototypes.vectors)
        rows = box.head.weight.double() @ torch.linalg.inv(model.prototypes.vectors)
        logits = mixed.mean((2, 3)) @ rows.T + box.head.bias
        torch.testing.assert_close(logits.float(), box(samples.images), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.shares[model.prototypes.classes], rows.T[model.prototypes.classes])
    gap = (model.prototypes.vectors.T @ model.prototypes.vectors - torch.eye(16)).abs().max()
    assert work.facts["distance_from_orthogonal"] == pytest.approx(float(gap), abs=1e-7)
    assert gap < 1e-6 if matrix == "orthogonal" else gap > 1e-3
    assert work.facts["purity"] > work.facts["purity_before"] + 0.05


def test_channels_of_a_class_contribute_most_on_average(tmp_path):
    model, samples, box, _ = fit(tmp_path)
    rows = (box.head.weight.double() @ torch.linalg.inv(model.prototypes.vectors)).tolist()
    with torch.no_grad():
        features = model.backbone(samples.images).double()
    for label in range(3):
        gains = []
        for j, vector in enumerate(model.prototypes.vectors.tolist()):
            means = []
            for n in (samples.labels == label).nonzero().flatten().tolist():
                cells = features[n].flatten(1).T.tolist()
                means.append(sum(sum(a * b for a, b in zip(vector, cell, strict=True)) for cell in cells) / len(cells))
            gains.append(rows[label][j] * sum(max(mean, 0.0) for mean in means) / len(means))
        best = sorted(sorted(range(16), key=lambda j: -gains[j])[:3])
        assert model.prototypes.classes[:, label].nonzero().flatten().tolist() == best


@pytest.mark.parametrize("matrix", ["orthogonal", "general"])
def test_the_first_step_is_the_published_one(matrix):
    """Adam on A through U = exp(A - A^T) or exp(A), the loss by loops over pairs of a channel and an image."""
    features = torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(0))
    config = EPIC.Config(matrix=matrix, first=2, last=2, rounds=1, epochs=1, batch_size=8, lr=0.05)
    found = train_mix(features, config, 0, types.SimpleNamespace(progress=Silent(), facts={}))
    A = torch.zeros(4, 4, requires_grad=True)
    mix = torch.matrix_exp(A - A.T if matrix == "orthogonal" else A)
    terms = []
    for channel in range(4):
        sums = [float(features[n, channel].sum()) for n in range(5)]
        for n in sorted(range(5), key=lambda one: -sums[one])[:2]:
            mixed = mix @ features[n]
            cell = int(features[n, channel].argmax())
            terms.append(mixed[channel, cell] / torch.clamp(mixed[:, cell].norm(), min=1e-8))
    (-sum(terms) / len(terms)).backward()
    # Adam's first step: the rate times the sign, but for epsilon.
    step = -0.05 * A.grad / (A.grad.abs() + 1e-8)
    torch.testing.assert_close(
        found, torch.matrix_exp(step - step.T if matrix == "orthogonal" else step), rtol=1e-3, atol=1e-4
    )


def test_purity_of_channels_as_they_are():
    features = torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(3))
    work = types.SimpleNamespace(progress=Silent(), facts={})
    train_mix(features, EPIC.Config(last=2, first=2, rounds=1), 0, work)
    purities = []
    for channel in range(3):
        best = sorted(range(6), key=lambda n: -float(features[n, channel].sum()))[:2]
        for n in best:
            cell = features[n][:, features[n, channel].argmax()].tolist()
            purities.append(cell[channel] / sqrt(sum(value * value for value in cell)))
    assert work.facts["purity_before"] == pytest.approx(sum(purities) / 6)


def test_features_beyond_the_limit_are_refused(tmp_path):
    samples, box = stripes(), Classifier(SmallNet(), 3).eval()
    work = task(tmp_path, samples, EPIC.Config(), black_box=box, memory_limit=1000)
    with pytest.raises(RequestError, match="raise the limit"):
        EPIC().fit(work)


def softmax(values):
    high = np.exp(values - values.max())
    return high / high.sum()


@pytest.mark.parametrize("matrix", ["orthogonal", "general"])
def test_channels_are_taken_out_one_by_one(tmp_path, matrix):
    model, samples, box, _ = fit(tmp_path, matrix=matrix)
    mix, owned = model.prototypes.vectors.numpy(), model.prototypes.classes.numpy()
    rows = box.head.weight.detach().double().numpy() @ np.linalg.inv(mix)
    kept, changed, at_random, areas, sizes = [], [], [], [], []
    for position, image in enumerate(samples.images):
        with torch.no_grad():
            features = model.backbone(image[None])[0].double().flatten(1).numpy()
        means = [sum(float(mix[j] @ features[:, u]) for u in range(features.shape[1])) / features.shape[1]
                 for j in range(16)]  # fmt: skip
        bias = box.head.bias.detach().double().numpy()

        def logits(gone, means=means, bias=bias):
            return np.array([sum(rows[c, j] * means[j] for j in range(16) if j not in gone) for c in range(3)]) + bias

        top = int(np.argmax(logits(())))
        sizes.append(
            [sum(max(rows[c, j] * means[j] for c in over) > 1e-3 for j in range(16)) for over in ((0, 1, 2), (top,))]
        )
        order = sorted((j for j in range(16) if owned[j, top]), key=lambda j: -rows[top, j] * means[j])
        kept.append([int(np.argmax(logits(order[m:]))) == top for m in (1, 2, 3)])
        changed.append([int(np.argmax(logits(order[:m]))) != top for m in (1, 2, 3)])
        # The random order of an image follows from the seed and its position.
        drawn = np.random.default_rng((0, position)).random(3)
        one = order[int(np.argmin(drawn))]
        at_random.append((int(np.argmax(logits([j for j in order if j != one]))) == top,
                          int(np.argmax(logits([one]))) != top))  # fmt: skip
        curve = [softmax(logits(order[m:]))[top] for m in range(4)]
        areas.append(sum((a + b) / 2 for a, b in itertools.pairwise(curve)) / 3)
    for mode, expected in (("alone", kept), ("without", changed)):
        found = measure(Sufficiency, model, samples, mode=mode)
        numbers = [found.value, found.also["at_2"], found.also["at_3"]]
        assert numbers == pytest.approx(list(100 * np.mean(expected, axis=0)))
        assert found.also["random"] == pytest.approx(100 * np.mean([pair[mode == "without"] for pair in at_random]))
        if mode == "alone":
            assert found.also["area"] == pytest.approx(100 * np.mean(areas), rel=1e-4)
    assert 0 < np.mean(changed) < 1
    size = measure(ExplanationSize, model, samples)
    assert [size.value, size.also["predicted"]] == pytest.approx(list(np.mean(sizes, axis=0)))


def test_connections_follow_the_weights_that_are_loaded(tmp_path):
    (model, *_), (other, *_) = fit(tmp_path / "a"), fit(tmp_path / "b", matrix="general")
    every = torch.arange(16)
    before = model.connections(every)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.connections(every), other.connections(every))
    assert not torch.equal(model.connections(every), before)
