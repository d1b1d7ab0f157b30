"""ProtoPShare's merging as loops over numbers, from Rymarczyk et al., KDD 2021, and the sequence of the released
code; nothing is shared with ``baselines`` but the weights."""

import pytest
import torch

from baselines import protopshare
from baselines.protopnet import ProtoPNetModel
from baselines.protopshare import ProtoPShare, ProtoPShareLearner
from bench.config.schedule import Schedule
from tests.support.samples import Silent, SmallNet, TensorSamples

CLASSES, PER_CLASS, DEPTH = 3, 4, 5
COUNT = CLASSES * PER_CLASS


def sequential(gaps, weight, identity, count):
    """Delete row after row: the prototypes that are left, their weights by class and their classes.

    ``gaps[i][j]`` are distances, without those of a prototype to itself.
    """
    left = list(range(len(gaps)))
    weight, identity = [list(row) for row in weight], [set(classes) for classes in identity]
    nearest = sorted(min(gaps[i][j] for j in left if j != i) for i in left)
    threshold = nearest[count - 1]
    position = 0
    while position < len(left):
        i = left[position]
        taken = [j for j in left if j != i and gaps[i][j] <= threshold]
        for j in taken:
            for row in weight:
                row[i] += row[j]
            identity[i] |= identity[j]
        left = [j for j in left if j not in taken]
        position += 1
    return left, weight, identity


def distances_between(rows):
    return [[sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for q in rows] for p in rows]


@pytest.mark.parametrize("count", [1, 3, 7, 12])
def test_merging_is_the_sequence_of_the_released_code(count):
    generator = torch.Generator().manual_seed(count)
    for _ in range(20):
        rows = torch.randn(COUNT, 2, generator=generator, dtype=torch.float64)
        weight = torch.randn(CLASSES, COUNT, generator=generator, dtype=torch.float64).tolist()
        identity = [{j // PER_CLASS} for j in range(COUNT)]
        gaps = distances_between(rows.tolist())
        left, _, _ = sequential(gaps, weight, identity, count)
        found = protopshare.squared_gaps(rows @ rows.T)
        torch.testing.assert_close(found.fill_diagonal_(0), torch.tensor(gaps, dtype=torch.float64))
        target = protopshare.merged_into(found.fill_diagonal_(torch.inf), count)
        assert (target == torch.arange(COUNT)).nonzero().flatten().tolist() == left
        for j in range(COUNT):  # each goes to the first that is left and near to it
            assert target[j] in left


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = ProtoPNetModel(SmallNet(), CLASSES, PER_CLASS, DEPTH).eval()
    made.last_layer.weight.data.normal_()
    return made


def samples(count=150):
    images = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return TensorSamples(images, torch.arange(count) % CLASSES, CLASSES)


def learner_of(model, **settings):
    return ProtoPShareLearner(model, ProtoPShare.Config(schedule=Schedule(phases=[]), **settings), Silent())


def least_distances(model, images):
    """``[prototype][image]``"""
    with torch.no_grad():
        z = model.add_on_layers(model.backbone(images)).double()
    gaps = (z[:, None] - model.prototype_vectors.double()[None]).square().sum(2)
    return gaps.flatten(2).amin(2).T.tolist()


CHOICES = [
    ("all", "distances", lambda model, images: least_distances(model, images)),
    # The released accumulator appends to itself, so it never sees more than its first batch of 75.
    ("first_batch", "distances", lambda model, images: least_distances(model, images[:75])),
    ("all", "vectors", lambda model, images: model.prototype_vectors.flatten(1).double().tolist()),
]


@pytest.mark.parametrize(("merge_on", "merge_by", "rows"), CHOICES, ids=["all", "first batch", "vectors"])
def test_two_rounds_of_merging(merge_on, merge_by, rows, model):
    data = samples()
    weight, identity = model.last_layer.weight.tolist(), [{j // PER_CLASS} for j in range(COUNT)]
    learner = learner_of(model, merges=3, merge_on=merge_on, merge_by=merge_by)
    gaps = distances_between(rows(model, data.images))
    alive = list(range(COUNT))
    for _ in range(2):
        before = model.last_layer.weight.detach().clone()
        learner.act("merge", data)
        small = [[gaps[i][j] for j in alive] for i in alive]
        left, sums, classes = sequential(
            small, [[row[j] for j in alive] for row in weight], [identity[j] for j in alive], 3
        )
        for place, j in enumerate(alive):
            identity[j] = classes[place] if place in left else set()
            for c in range(CLASSES):
                weight[c][j] = sums[c][place] if place in left else 0.0
        alive = [alive[place] for place in left]
        torch.testing.assert_close(model.last_layer.weight, torch.tensor(weight), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.last_layer.weight.sum(1), before.sum(1))  # merging adds columns
        found = [set(row.nonzero().flatten().tolist()) for row in model.prototypes.classes]
        assert found == identity
        assert learner.facts()["left"] == len(alive)
        assert learner.facts()["shared"] == sum(len(classes) > 1 for classes in identity)
    assert len(alive) < COUNT - 3


def test_a_merged_prototype_answers_and_learns_no_more(model):
    data = samples(24)
    learner = learner_of(model, merges=4)
    learner.act("merge", data)
    gone = ~model.prototypes.classes.any(1)
    assert gone.any()
    with torch.no_grad():
        before = model.explain(data.images)
        moved = model.prototype_vectors.clone()
        moved[gone] += 1.0
        nearest = model.distances(model.backbone(data.images)).amin((2, 3))
        terms = learner(data.images, data.labels, "last")
        model.prototype_vectors.copy_(moved)
        assert torch.equal(model.explain(data.images).logits, before.logits)
        again = learner(data.images, data.labels, "last")
    optimiser = torch.optim.Adam(model.last_layer.parameters(), lr=0.1)
    learner(data.images, data.labels, "last")["loss"].backward()
    optimiser.step()
    learner.after_step()
    assert not model.last_layer.weight[:, gone].any()
    # Cluster and separation count prototypes that are left: own ones by the multi-hot table.
    table = model.prototypes.classes
    for name, pick in (
        ("cluster", lambda own, label: own[label]),
        ("separation", lambda own, label: not own[label] and own.any()),
    ):
        least = [
            min(float(nearest[n, j]) for j in range(COUNT) if pick(table[j], label))
            for n, label in enumerate(data.labels.tolist())
        ]
        torch.testing.assert_close(terms[name], torch.tensor(least).mean(), rtol=1e-4, atol=1e-5)
        assert torch.equal(again[name], terms[name])


def test_projection_takes_the_first_class(model):
    data = samples(30)
    learner = learner_of(model, merges=5)
    learner.act("merge", data)
    learner.act("project", data)
    table = model.prototypes
    for j in range(COUNT):
        classes = table.classes[j].nonzero().flatten().tolist()
        source = int(table.source_image[j])
        assert (source == -1) == (not classes)
        if classes:
            assert int(data.labels[source]) == classes[0]
    assert (table.classes.sum(1) > 1).any()
