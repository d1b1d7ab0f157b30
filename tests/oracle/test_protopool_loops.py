"""ProtoPool as loops over numbers, written from Rymarczyk et al., ECCV 2022, and Huang et al., ICCV 2023; nothing is
shared with ``baselines`` but the weights. Presence is ``[class][prototype][slot]``, a latent map is a list of cells.
"""

from math import exp, log, sqrt

import pytest
import torch

from baselines import protopool_ops
from baselines.protopool import ProtoPool, ProtoPoolLearner, ProtoPoolModel
from bench.config.schedule import Schedule
from metrics.consistency import Consistency
from metrics.noise import gaussian_noise
from metrics.stability import Stability
from tests.oracle import plain_loops
from tests.support.samples import Silent, SmallNet, TensorSamples
from tests.support.scripted_model import score

CLASSES, PROTOTYPES, SLOTS, DEPTH = 3, 9, 2, 4


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = ProtoPoolModel(SmallNet(), CLASSES, PROTOTYPES, SLOTS, DEPTH).eval()
    made.proto_presence.data.normal_()
    made.last_layer.weight.data.normal_()
    # One prototype in a slot of every class, and one twice in a class: the cases of sharing.
    made.proto_presence.data[:, 4, 0] = made.proto_presence.data[1, 4, 1] = 9.0
    made.assign()
    return made


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def latent(model, images):
    """Cells of each image, row by row: one sigmoid convolution after the backbone."""
    with torch.no_grad():
        features = model.backbone(images).flatten(2).mT.tolist()
    weight = model.add_on_layers[0].weight[:, :, 0, 0].tolist()
    bias = model.add_on_layers[0].bias.tolist()
    rows = list(zip(weight, bias, strict=True))
    return [[[1 / (1 + exp(-b - dot(w, x))) for w, b in rows] for x in cells] for cells in features]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def squared(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def similarity(d):
    return log((d + 1) / (d + 1e-4))


def distances(cells, prototypes):
    """``[prototype][cell]``"""
    return [[squared(z, p) for z in cells] for p in prototypes]


def slot_of(presence, c, k):
    column = [presence[c][p][k] for p in range(PROTOTYPES)]
    return column.index(max(column))


def hard(presence):
    return [
        [[float(slot_of(presence, c, k) == p) for k in range(SLOTS)] for p in range(PROTOTYPES)] for c in range(CLASSES)
    ]


def focal(lowest, mean):
    return similarity(lowest) - similarity(mean)


def logits(d, presence, last):
    """Of one image with distances ``d[prototype][cell]``."""
    g = []
    for c in range(CLASSES):
        for k in range(SLOTS):
            mixed_min = sum(presence[c][p][k] * min(d[p]) for p in range(PROTOTYPES))
            mixed_avg = sum(presence[c][p][k] * sum(d[p]) / len(d[p]) for p in range(PROTOTYPES))
            g.append(focal(mixed_min, mixed_avg))
    return [dot(row, g) for row in last]


def cross_entropy(scores, label):
    return log(sum(exp(value) for value in scores)) - scores[label]


def numbers(model):
    presence, last = model.proto_presence.tolist(), model.last_layer.weight.tolist()
    return model.prototype_vectors[:, :, 0, 0].tolist(), presence, last


def close(found, expected, tolerance=1e-3):
    torch.testing.assert_close(torch.as_tensor(found), torch.tensor(expected), rtol=tolerance, atol=tolerance)


def test_forward_maps_and_attribution(model, images):
    prototypes, presence, last = numbers(model)
    classes = torch.tensor([1, 0, 2, 1])
    with torch.no_grad():
        seen, own = model.explain(images), model.explain(images, classes)
        shown = model.attribute(model.backbone(images), classes)
    for i, cells in enumerate(latent(model, images)):
        d = distances(cells, prototypes)
        close(seen.logits[i], logits(d, hard(presence), last))
        maps = [[similarity(value) for value in row] for row in d]
        close(seen.maps[i].flatten(1), maps)
        close(seen.scores[i], [focal(min(row), sum(row) / len(row)) for row in d])
        c = int(classes[i])
        weights = [last[c][j] for j in range(CLASSES * SLOTS)]
        held = [slot_of(presence, j // SLOTS, j % SLOTS) for j in range(CLASSES * SLOTS)]
        expected = [sum(w * maps[p][u] for w, p in zip(weights, held, strict=True)) for u in range(len(cells))]
        close(shown[i].flatten(), expected)
        mine = sorted({slot_of(presence, c, k) for k in range(SLOTS)})
        assert own.indices[i].tolist() == mine + [-1] * (SLOTS - len(mine))
        for place, p in enumerate(mine):
            assert torch.equal(own.maps[i, place], seen.maps[i, p])
            assert torch.equal(own.scores[i, place], seen.scores[i, p])
        assert not own.maps[i, len(mine) :].any()


def test_assignment_of_slots(model):
    presence = model.proto_presence.tolist()
    owned = model.prototypes.classes
    for p in range(PROTOTYPES):
        for c in range(CLASSES):
            assert bool(owned[p, c]) == any(slot_of(presence, c, k) == p for k in range(SLOTS))
    assert owned[4].all()
    assert owned[:, 1].sum() == 1
    assert not owned.any(1).all()


@pytest.mark.parametrize("scale", [0.0, 1.0])
@pytest.mark.parametrize("mixing", ["factored", "literal"])
@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_losses(model, images, scale, mixing, mixup):
    labels = torch.tensor([0, 2, 1, 0])
    model.mixing = mixing
    config = ProtoPool.Config(mixup=mixup, mixing=mixing, schedule=Schedule(phases=[]))
    learner = ProtoPoolLearner(model, config, Silent())
    learner.scale = scale
    torch.manual_seed(5)
    found = learner(images, labels, "joint")
    # The same draws again, through torch's own functions.
    torch.manual_seed(5)
    share, partners = 1.0, torch.arange(4)
    if mixup:
        share = torch.distributions.Beta(0.5, 0.5).sample().item()
        partners = torch.randperm(4)
    raw = model.proto_presence.detach()
    drawn = torch.nn.functional.gumbel_softmax(scale * raw, tau=0.5, dim=1) if scale else raw.softmax(1)
    q, (prototypes, _, last) = drawn.tolist(), numbers(model)

    entropy = cluster = separation = accuracy = 0.0
    for i, cells in enumerate(latent(model, share * images + (1 - share) * images[partners])):
        d = distances(cells, prototypes)
        scores = logits(d, q, last)
        one, two = int(labels[i]), int(labels[partners[i]])
        entropy += (share * cross_entropy(scores, one) + (1 - share) * cross_entropy(scores, two)) / 4
        guess = scores.index(max(scores))
        accuracy += (share * (guess == one) + (1 - share) * (guess == two)) / 4
        # M = depth: the largest of M - d over the chosen is M minus the smallest distance among them.
        total = [sum(q[one][p]) for p in range(PROTOTYPES)]
        absent = [sum(1 - value for value in q[one][p]) for p in range(PROTOTYPES)]
        near = sorted(range(PROTOTYPES), key=lambda p: -total[p])[:SLOTS]
        far = sorted(range(PROTOTYPES), key=lambda p: -absent[p])[: PROTOTYPES - SLOTS]
        cluster += (DEPTH - max((DEPTH - min(d[p])) * (p in near) for p in range(PROTOTYPES))) / 4
        separation += (DEPTH - max((DEPTH - min(d[p])) * (p in far) for p in range(PROTOTYPES))) / 4
    overlap = -1.0
    for c in range(CLASSES):
        columns = [[raw[c, p, k].item() for p in range(PROTOTYPES)] for k in range(SLOTS)]
        for a in columns:
            for b in columns:
                overlap += dot(a, b) / sqrt(dot(a, a) * dot(b, b)) / (CLASSES * SLOTS)
    foreign = sum(abs(last[c][j]) for c in range(CLASSES) for j in range(CLASSES * SLOTS) if j // SLOTS != c)
    expected = {
        "loss": entropy + 0.8 * cluster - 0.08 * separation + 1e-4 * foreign + overlap,
        "cross_entropy": entropy,
        "cluster": cluster,
        "separation": separation,
        "orthogonality": overlap,
        "train_accuracy": accuracy,
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_projection(model):
    generator = torch.Generator().manual_seed(3)
    labels = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1, 0])
    samples = TensorSamples(torch.randn(10, 3, 32, 32, generator=generator), labels, 3)
    prototypes, presence, _ = numbers(model)
    cells = latent(model, samples.images)
    expected, source = [list(p) for p in prototypes], [(-1, -1, -1)] * PROTOTYPES
    for p in range(PROTOTYPES):
        best = None
        for i in range(10):
            if all(slot_of(presence, int(samples.labels[i]), k) != p for k in range(SLOTS)):
                continue
            for u, z in enumerate(cells[i]):
                d = squared(z, prototypes[p])
                if best is None or d < best:
                    best, expected[p], source[p] = d, z, (i, u // 4, u % 4)
    ProtoPoolLearner(model, ProtoPool.Config(schedule=Schedule(phases=[])), Silent()).act("project", samples)
    table = model.prototypes
    assert [(int(i), *at) for i, at in zip(table.source_image, table.source_patch.tolist(), strict=True)] == source
    assert (-1, -1, -1) in source
    close(model.prototype_vectors[:, :, 0, 0].detach(), expected, 1e-5)
    # The one that every class holds was looked for in images of all of them, the others in those of their own.
    assert table.source_image[4] == min(range(10), key=lambda i: min(squared(z, prototypes[4]) for z in cells[i]))


def test_consistency_and_stability_of_shared_prototypes(model):
    """Option A: every (prototype, class that holds it) is a unit, seen on that class's images."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(8, 3, 32, 32, generator=generator)
    labels = [0, 1, 2, 0, 1, 2, 0, 1]
    points = torch.randint(0, 32, (8, 5, 2), generator=generator)
    visible = torch.rand(8, 5, generator=generator) < 0.8
    noise = gaussian_noise(torch.arange(8), (3, 32, 32), sigma=2.0, clip=2.5, seed=0, draw=0)
    with torch.no_grad():
        clean, noisy = model.explain(images).maps.numpy(), model.explain(images + noise).maps.numpy()
        canvas = {"size": 32, "half_size": 10}
        consistency = score(Consistency, model, images, labels, points, visible, threshold=0.7, **canvas)
        stability = score(Stability, model, images, labels, points, visible, sigma=2.0, clip=2.5, **canvas)
    owned = [
        (p, c)
        for p in range(PROTOTYPES)
        for c in range(CLASSES)
        if p in {slot_of(model.proto_presence.tolist(), c, k) for k in range(SLOTS)}
    ]
    peaks, moved = ([[plain_loops.peak(cells, 32) for cells in image] for image in maps] for maps in (clean, noisy))

    def hit(peaks):
        return [
            [plain_loops.hit_vector(at, points[i].tolist(), visible[i].tolist(), 10, 32) for at in row]
            for i, row in enumerate(peaks)
        ]

    before, after = hit(peaks), hit(moved)
    steady = consistent = 0.0
    for p, c in owned:
        own = [i for i in range(8) if labels[i] == c]
        steady += sum(before[i][p] == after[i][p] for i in own) / len(own) / len(owned)
        shares = [sum(before[i][p][part] for i in own) / max(1, int(visible[own, part].sum())) for part in range(5)]
        consistent += (max(shares) >= 0.7) / len(owned)
    assert len(owned) == 5
    assert (consistency.n, stability.n) == (5, 5)
    assert consistency.value == pytest.approx(100 * consistent)
    assert stability.value == pytest.approx(100 * steady)
    assert 0 < consistency.value < 100
    assert 0 < stability.value < 100


def test_the_published_scale():
    for epoch in range(40):
        literal = 1.3 * sqrt((1000 / 1.3) ** 2 / 30 * epoch) if epoch < 30 else 1000
        assert protopool_ops.gumbel_scale(epoch, 30) == pytest.approx(literal)
