"""ST-ProtoPNet against plain loops over numbers, from the formulas of Wang et al., ICCV 2023; nothing is shared with
``baselines`` but the weights. A map of latent vectors is a list ``[row][column][channel]``.
"""

from math import exp, log, sqrt, tanh

import pytest
import torch

from baselines.st_protopnet import STProtoPNet, STProtoPNetLearner, STProtoPNetModel, literal_products, products
from bench.config.schedule import Schedule
from tests.support.samples import Silent, SmallNet, TensorSamples

CLASSES, PER_CLASS, DEPTH = 3, 2, 5
LABELS = [0, 2, 1, 0]
BRANCHES = ("trivial", "support")


@pytest.fixture(params=["cropped", "full"])
def form(request):
    return request.param


@pytest.fixture
def model(form):
    torch.manual_seed(0)
    model = STProtoPNetModel(SmallNet(), CLASSES, PER_CLASS, DEPTH, form).double().eval()
    with torch.no_grad():
        for branch in model.branches.values():
            # Signs and lengths of their own, so that a missing normalisation or transposition shows.
            branch.prototype_vectors.copy_(torch.randn(branch.prototype_vectors.shape, dtype=torch.float64))
            branch.last_layer.weight.add_(torch.randn(branch.last_layer.weight.shape, dtype=torch.float64))
            for layer in convolutions(branch):
                layer.bias.copy_(torch.randn(DEPTH, dtype=torch.float64))
    return model


@pytest.fixture
def images():
    return torch.randn(4, 3, 24, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def convolutions(branch):
    return [layer for layer in branch.add_on_layers if isinstance(layer, torch.nn.Conv2d)]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(a):
    return [x / sqrt(dot(a, a)) for x in a]


def dense(layer, point):
    return [dot(w, point) + b for w, b in zip(layer.weight[:, :, 0, 0].tolist(), layer.bias.tolist(), strict=True)]


def twice_as_large(grid):
    """Linear interpolation at the centres of cells of half the size; beyond the border the border goes on."""

    def between(n):
        for i in range(2 * n):
            at = min(max((i + 0.5) / 2 - 0.5, 0.0), n - 1.0)
            low = min(int(at), n - 1)
            yield low, min(low + 1, n - 1), at - low

    rows, columns = list(between(len(grid))), list(between(len(grid[0])))
    return [
        [
            [
                (1 - b) * ((1 - a) * grid[t][left][c] + a * grid[t][right][c])
                + b * ((1 - a) * grid[u][left][c] + a * grid[u][right][c])
                for c in range(len(grid[0][0]))
            ]
            for left, right, a in columns
        ]
        for t, u, b in rows
    ]


def latent(model, name, image):
    branch = model.branches[name]
    with torch.no_grad():
        grid = model.backbone(image[None])[0].permute(1, 2, 0).tolist()
    first, second = convolutions(branch)
    if model.branches[name].form == "full":
        return [[dense(second, dense(first, point)) for point in row] for row in twice_as_large(grid)]
    activated = [[[tanh(x) for x in dense(first, point)] for point in row] for row in grid]
    return [[[tanh(x) for x in dense(second, point)] for point in row] for row in activated]


def vectors(model, name):
    return model.branches[name].prototype_vectors[:, :, 0, 0].tolist()


def similarity(model, point, prototype):
    if model.branches["support"].form == "full":
        return max(dot(unit(point), unit(prototype)), 0.0)
    return dot(point, unit(prototype))


def maps_of(model, name, image):
    z = latent(model, name, image)
    return [[[similarity(model, point, p) for point in row] for row in z] for p in vectors(model, name)]


def logits_of(model, name, image):
    scores = [max(map(max, grid)) for grid in maps_of(model, name, image)]
    return [dot(row, scores) for row in model.branches[name].last_layer.weight.tolist()]


def test_maps_logits_and_attribution(model, images):
    classes = torch.tensor([2, 0, 1, 2])
    with torch.no_grad():
        found, shown = model.explain(images), model.attribute(model.backbone(images), classes)
        own = model.explain(images, classes)
    for i, image in enumerate(images):
        maps = [grid for name in BRANCHES for grid in maps_of(model, name, image)]
        for j, grid in enumerate(maps):
            assert found.maps[i, j].tolist() == [pytest.approx(row, rel=1e-9, abs=1e-12) for row in grid]
        both = [logits_of(model, name, image) for name in BRANCHES]
        assert found.logits[i].tolist() == pytest.approx([sum(pair) for pair in zip(*both, strict=True)], rel=1e-9)
        weights = [w for name in BRANCHES for w in model.branches[name].last_layer.weight[classes[i]].tolist()]
        for y in range(shown.shape[1]):
            for x in range(shown.shape[2]):
                expected = sum(w * grid[y][x] for w, grid in zip(weights, maps, strict=True))
                assert shown[i, y, x].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        # A class's prototypes are those of both branches.
        c = int(classes[i])
        assert own.indices[i].tolist() == [2 * c, 2 * c + 1, 6 + 2 * c, 7 + 2 * c]


def terms_of(model, name, images):
    prototypes = vectors(model, name)
    entropy = cluster = separation = 0.0
    for image, label in zip(images, LABELS, strict=True):
        z, logits = latent(model, name, image), logits_of(model, name, image)
        entropy -= (logits[label] - log(sum(exp(value) for value in logits))) / len(images)
        cosines = [max(dot(unit(point), unit(p)) for row in z for point in row) for p in prototypes]
        cosines = [max(value, 0.0) for value in cosines] if model.branches[name].form == "full" else cosines
        cluster -= max(value for j, value in enumerate(cosines) if j // PER_CLASS == label) / len(images)
        separation -= max(value for j, value in enumerate(cosines) if j // PER_CLASS != label) / len(images)
    members = [prototypes[PER_CLASS * c : PER_CLASS * (c + 1)] for c in range(CLASSES)]
    orthonormality = sum(
        abs(dot(own[a], own[b]) - (a == b)) for own in members for a in range(PER_CLASS) for b in range(PER_CLASS)
    )
    between = []
    for c in range(CLASSES):
        for d in range(CLASSES):
            if c != d:
                values = [dot(p, q) for p in members[c] for q in members[d]]
                between.append(max(values) if name == "trivial" else -min(values))
    weights = model.branches[name].last_layer.weight.tolist()
    return {
        "cross_entropy": entropy,
        "cluster": cluster,
        "separation": separation,
        "orthonormality": orthonormality,
        "between_classes": sum(between) / len(between),
        "l1": sum(abs(weights[c][j]) for c in range(CLASSES) for j in range(6) if j // PER_CLASS != c),
    }


@pytest.mark.parametrize("pairs_form", ["gram", "literal"])
def test_loss_of_steps_in_turn(model, images, pairs_form):
    config = STProtoPNet.Config(pairs_form=pairs_form, schedule=Schedule(phases=[]))
    learner = STProtoPNetLearner(model, config, Silent())
    expected = {name: terms_of(model, name, images) for name in BRANCHES}
    learner.before_epoch(0)
    for name in ("trivial", "support", "trivial"):
        with torch.no_grad():
            found = learner(images, torch.tensor(LABELS), "joint")
        own = expected[name]
        for term, value in own.items():
            assert found[term].item() == pytest.approx(value, rel=1e-8), (name, term)
        total = (
            own["cross_entropy"]
            + 0.8 * own["cluster"]
            - (0.08 if name == "trivial" else 0.48) * own["separation"]
            + 1e-3 * own["orthonormality"]
            + own["between_classes"]
            + 1e-4 * own["l1"]
        )
        assert found["loss"].item() == pytest.approx(total, rel=1e-9)
        learner.step += 1
    # The next epoch begins with the trivial branch again.
    learner.before_epoch(1)
    with torch.no_grad():
        again = learner(images, torch.tensor(LABELS), "joint")
    assert again["separation"].item() == pytest.approx(expected["trivial"]["separation"], rel=1e-8)


def test_step_teaches_the_branch_whose_turn_it_is(model, images):
    learner = STProtoPNetLearner(model, STProtoPNet.Config(schedule=Schedule(phases=[])), Silent())
    learner.step = 1
    learner(images, torch.tensor(LABELS), "joint")["loss"].backward()
    taught = {name.split(".")[1] for name, one in model.branches.named_parameters("branches") if one.grad is not None}
    assert taught == {"support"}
    learner.after_step()
    for name in BRANCHES:
        assert [sqrt(dot(p, p)) for p in vectors(model, name)] == pytest.approx([1.0] * 6)


def test_projection(model):
    images = torch.randn(9, 3, 24, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = [0, 1, 2, 2, 1, 0, 0, 1, 2]
    before = {name: vectors(model, name) for name in BRANCHES}
    learner = STProtoPNetLearner(model, STProtoPNet.Config(schedule=Schedule(phases=[])), Silent())
    learner.act("project", TensorSamples(images, torch.tensor(labels), CLASSES))
    row = 0
    for name in BRANCHES:
        for j, prototype in enumerate(before[name]):
            best, source, patch = -float("inf"), None, None
            for i, image in enumerate(images):
                if labels[i] != j // PER_CLASS:
                    continue
                for y, line in enumerate(latent(model, name, image)):
                    for x, point in enumerate(line):
                        seen = unit(point) if model.branches[name].form == "full" else point
                        if dot(seen, unit(prototype)) > best:
                            best, source, patch = dot(seen, unit(prototype)), [i, y, x], unit(point)
            table = model.prototypes
            assert [table.source_image[row].item(), *table.source_patch[row].tolist()] == source
            assert vectors(model, name)[j] == pytest.approx(patch, rel=1e-9)
            row += 1


def test_both_forms_of_the_products():
    bases = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(products(bases), literal_products(bases))
