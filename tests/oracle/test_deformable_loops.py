"""Deformable ProtoPNet's forward pass, maps, losses and push against plain loops."""

import math

import pytest
import torch

from baselines.deformable import DeformableProtoPNet, DeformableProtoPNetLearner, DeformableProtoPNetModel
from tests.oracle import deformable_loops as loops
from tests.support.samples import Silent, TensorSamples

CLASSES, PER_CLASS, DEPTH = 3, 2, 4
COUNT = CLASSES * PER_CLASS


class Pixels(torch.nn.Module):
    """Features are the images' own pixels, not below zero."""

    channels = DEPTH

    def forward(self, images):
        return images.relu()


def network(deformed):
    torch.manual_seed(0)
    model = DeformableProtoPNetModel(Pixels(), CLASSES, PER_CLASS, hidden=3, upsampling=2)
    with torch.no_grad():
        # Beyond [0, 1], so that cosines of both signs and unequal lengths occur.
        model.prototype_vectors.copy_(torch.randn(model.prototype_vectors.shape) + 0.3)
        if deformed:
            model.open_offsets(0)
            for parameter in model.conv_offset.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    return model.eval()


@pytest.fixture(params=[False, True], ids=["rigid", "deformed"])
def model(request):
    return network(request.param)


@pytest.fixture
def images():
    return torch.randn(5, DEPTH, 3, 4, generator=torch.Generator().manual_seed(1))


LABELS = torch.tensor([0, 2, 1, 0, 2])


def learner_of(model, **settings):
    config = DeformableProtoPNet.Config(per_class=PER_CLASS, schedule={"phases": []}, **settings)
    return DeformableProtoPNetLearner(model, config, 0, Silent()).requires_grad_(False)


def nested(tensor):
    return tensor.detach().double().movedim(0, -1).tolist()


def looked_at(model, image):
    """z-hat and the offsets of one image, by loops."""
    z = loops.unit_cells(loops.upsampled(nested(image.relu()), 2))
    if not model.deformed:
        return z, [[[0.0] * 8 for _ in row] for row in z]
    first, _, second = model.conv_offset
    layers = [(layer.weight.tolist(), layer.bias.tolist()) for layer in (first, second)]
    return z, loops.network_offsets(z, *layers)


def cosine_maps(model, images):
    prototypes = [loops.unit_prototype(nested(p)) for p in model.prototype_vectors]
    seen = [looked_at(model, image) for image in images]
    return [[loops.cosine_map(z, offsets, p) for p in prototypes] for z, offsets in seen]


def tensor(values):
    return torch.tensor(values, dtype=torch.float32)


def test_offsets_move_by_more_than_rounding(images):
    model = network(True)
    offsets = tensor([looked_at(model, image)[1] for image in images])
    assert offsets.abs().max() > 1.5, "some place should be moved by more than a cell"
    assert (offsets.abs() > 0.1).float().mean() > 0.5
    with torch.no_grad():
        torch.testing.assert_close(model.latent(images.relu())[1].permute(0, 2, 3, 1), offsets, rtol=1e-4, atol=1e-4)


def test_maps_scores_and_logits(model, images):
    expected = tensor(cosine_maps(model, images)).relu()
    assert (expected == 0).any()
    with torch.no_grad():
        explanation, logits = model.explain(images), model(images)
    torch.testing.assert_close(explanation.maps, expected, rtol=1e-4, atol=1e-4)
    scores = [[max(max(row) for row in one) for one in maps] for maps in expected.tolist()]
    torch.testing.assert_close(explanation.scores, tensor(scores), rtol=1e-4, atol=1e-4)
    for i in range(len(images)):
        for c in range(CLASSES):
            logit = sum((1.0 if j // PER_CLASS == c else -0.5) * scores[i][j] for j in range(COUNT))
            assert logits[i, c].item() == pytest.approx(logit, abs=1e-3)
    torch.testing.assert_close(explanation.logits, logits)


def test_some_classes_are_a_part_of_all(model, images):
    with torch.no_grad():
        everything, own = model.explain(images), model.explain(images, LABELS)
    assert own.indices.tolist() == [[0, 1], [4, 5], [2, 3], [0, 1], [4, 5]]
    for i in range(len(images)):
        torch.testing.assert_close(own.maps[i], everything.maps[i, own.indices[i]])
        torch.testing.assert_close(own.scores[i], everything.scores[i, own.indices[i]])


def test_the_displayed_attribution_weights_the_maps(model, images):
    maps = tensor(cosine_maps(model, images)).relu()
    expected = [sum((1.0 if j in (2, 3) else -0.5) * maps[i, j] for j in range(COUNT)) for i in range(len(images))]
    with torch.no_grad():
        found = model.attribute(model.backbone(images), torch.ones(len(images), dtype=torch.long))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-4)


def slow_losses(model, images, official_bugs):
    maps = cosine_maps(model, images)
    cluster = separation = entropy = 0.0
    offsets = [v for image in images for row in looked_at(model, image)[1] for cell in row for v in cell]
    for i, label in enumerate(LABELS.tolist()):
        best = []
        for j in range(COUNT):
            margin = 0.0 if j // PER_CLASS == label else 0.1
            best.append(max(loops.with_margin(cosine, margin) for row in maps[i][j] for cosine in row))
        logits = [sum((1.0 if j // PER_CLASS == c else -0.5) * best[j] for j in range(COUNT)) for c in range(CLASSES)]
        entropy -= logits[label] - math.log(sum(math.exp(value) for value in logits))
        cluster += max(best[j] for j in range(COUNT) if j // PER_CLASS == label)
        separation += max(best[j] for j in range(COUNT) if j // PER_CLASS != label)
    # In groups of the class's own prototypes, or, as released, of as many as there are classes.
    size = CLASSES if official_bugs else PER_CLASS
    prototypes = [nested(p) for p in model.prototype_vectors]
    groups = [prototypes[start : start + size] for start in range(0, COUNT, size)]
    gram = sum(loops.gram_distance([part for p in group for row in p for part in row]) for group in groups)
    n = len(images)
    return {
        "cross_entropy": entropy / n,
        "cluster": cluster / n,
        "separation": separation / n,
        "offset_penalty": math.sqrt(sum(v * v for v in offsets)),
        "mean_offset": sum(abs(v) for v in offsets) / len(offsets),
        "orthogonality": math.sqrt(gram),
    }


@pytest.mark.parametrize("official_bugs", [False, True])
def test_losses(model, images, official_bugs):
    learner = learner_of(model, official_bugs=official_bugs)
    expected = slow_losses(model, images, official_bugs)
    found = {name: value.item() for name, value in learner(images, LABELS, "joint").items()}
    total = expected["cross_entropy"] - 0.8 * expected["cluster"] + 0.08 * expected["separation"]
    if model.deformed:
        total += 0.8 * expected["offset_penalty"] + 0.1 * expected["orthogonality"]
    else:
        for name in ("offset_penalty", "mean_offset", "orthogonality"):
            del expected[name]
    assert found.pop("loss") == pytest.approx(total, rel=1e-4)
    predicted = model(images).argmax(1)
    assert found.pop("train_accuracy") == pytest.approx((predicted == LABELS).float().mean().item())
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_last_layer_that_learns_is_kept_sparse(images):
    model = network(False)
    learner = learner_of(model)
    fixed = learner(images, LABELS, "last")["loss"]
    model.last_layer.requires_grad_(True)
    learning = learner(images, LABELS, "last")["loss"]
    foreign = COUNT * (CLASSES - 1) * 0.5
    assert (learning - fixed).item() == pytest.approx(1e-2 * foreign, rel=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_projection(model, images, monkeypatch, batch):
    from baselines import projection

    monkeypatch.setattr(projection, "_PUSH_BATCH", batch)
    maps = cosine_maps(model, images)
    expected, sources = [], []
    for j in range(COUNT):
        candidates = [
            (cosine, i, y, x)
            for i in range(len(images))
            if LABELS[i] == j // PER_CLASS
            for y, row in enumerate(maps[i][j])
            for x, cosine in enumerate(row)
        ]
        _, i, y, x = max(candidates, key=lambda candidate: candidate[0])
        expected.append(loops.moved_patch(*looked_at(model, images[i]), y, x))
        sources.append([i, y, x])
    learner_of(model).act("project", TensorSamples(images, LABELS, CLASSES))
    torch.testing.assert_close(
        model.prototype_vectors.detach(), tensor(expected).permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4
    )
    assert model.prototypes.source_image.tolist() == [source[0] for source in sources]
    assert model.prototypes.source_patch.tolist() == [source[1:] for source in sources]
