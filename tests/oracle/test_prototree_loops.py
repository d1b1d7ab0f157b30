"""ProtoTree as a recursion over nodes and loops over numbers, written from Nauta et al., CVPR 2021; nothing is shared
with ``baselines`` but the weights. A node is ``(row, left, right)``, a leaf its number."""

from math import exp, log, sqrt

import pytest
import torch

from baselines import soft_tree
from baselines.prototree import ProtoTree, ProtoTreeLearner, ProtoTreeModel
from bench.config.schedule import Schedule
from bench.contract import NotApplicable
from tests.support.samples import Silent, SmallNet, TensorSamples

CLASSES, LEVELS, DEPTH = 4, 3, 5
NODES, LEAVES = 2**LEVELS - 1, 2**LEVELS


def whole_tree(levels, row=0, leaf=0):
    """A complete tree with its nodes numbered in pre-order."""
    if levels == 0:
        return leaf
    below = 2 ** (levels - 1)
    return row, whole_tree(levels - 1, row + 1, leaf), whole_tree(levels - 1, row + below, leaf + below)


# Of another shape: a chain to the left, rows in no order, two of them in no node and three leaves gone.
CHAIN = (4, (0, (6, 1, (2, 2, 3)), 5), (1, 0, 7))
TREES = [whole_tree(LEVELS), CHAIN]


def turns_of(tree):
    turns = torch.zeros(LEAVES, NODES, dtype=torch.int8)
    for leaf in leaves_below(tree):
        for row, right in path_to(tree, leaf):
            turns[leaf, row] = 1 if right else -1
    return turns


def leaves_below(node):
    return [node] if isinstance(node, int) else leaves_below(node[1]) + leaves_below(node[2])


def path_to(node, leaf):
    """Rows and whether the way to the leaf turns right there."""
    if isinstance(node, int):
        return []
    right = leaf in leaves_below(node[2])
    return [(node[0], right), *path_to(node[2] if right else node[1], leaf)]


def nodes_of(node):
    return [] if isinstance(node, int) else [node, *nodes_of(node[1]), *nodes_of(node[2])]


def softmax(values):
    top = max(values)
    shares = [exp(value - top) for value in values]
    return [share / sum(shares) for share in shares]


def prediction(node, s, leaves):
    """The distribution of a node, as the mean of its children's."""
    if isinstance(node, int):
        return softmax(leaves[node])
    row, left, right = node
    below = zip(prediction(left, s, leaves), prediction(right, s, leaves), strict=True)
    return [(1 - s[row]) * a + s[row] * b for a, b in below]


def arrival(tree, s, leaf):
    probability = 1.0
    for row, right in path_to(tree, leaf):
        probability *= s[row] if right else 1 - s[row]
    return probability


@pytest.fixture(params=TREES, ids=["complete", "chain"])
def tree(request):
    return request.param


@pytest.fixture
def model(tree):
    torch.manual_seed(0)
    made = ProtoTreeModel(SmallNet(), CLASSES, turns_of(tree), DEPTH).eval()
    made.leaves.uniform_(0, 3, generator=torch.Generator().manual_seed(2))
    made.assign()
    return made


@pytest.fixture
def images():
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def distances(model, images):
    """``[image][prototype][cell]``: sqrt(|z - p|^2 + 1e-14), z a sigmoid of one product without bias."""
    with torch.no_grad():
        features = model.backbone(images).flatten(2).mT.tolist()
    weight = model.add_on_layers[0].weight[:, :, 0, 0].tolist()
    assert model.add_on_layers[0].bias is None
    prototypes = model.prototype_vectors[:, :, 0, 0].tolist()
    z = [
        [[1 / (1 + exp(-sum(w * x for w, x in zip(row, cell, strict=True)))) for row in weight] for cell in cells]
        for cells in features
    ]
    return [
        [[sqrt(sum((a - b) ** 2 for a, b in zip(cell, p, strict=True)) + 1e-14) for cell in cells] for p in prototypes]
        for cells in z
    ]


def right_turns(model, images):
    return [[exp(-min(cells)) for cells in rows] for rows in distances(model, images)]


def close(found, expected, tolerance=1e-3):
    torch.testing.assert_close(torch.as_tensor(found).double(), torch.tensor(expected).double(), rtol=0, atol=tolerance)


def test_complete_trees():
    for levels in range(1, 5):
        tree, found = whole_tree(levels), soft_tree.complete_tree(levels)
        for leaf in range(2**levels):
            path = dict(path_to(tree, leaf))
            sides = [0 if row not in path else 1 if path[row] else -1 for row in range(found.shape[1])]
            assert found[leaf].tolist() == sides


def test_prediction_maps_and_scores(tree, model, images):
    leaves = model.leaves.tolist()
    with torch.no_grad():
        seen = model.explain(images)
        paths = model.paths(model.distances(model.backbone(images)).amin((2, 3)))[0]
    for i, s in enumerate(right_turns(model, images)):
        close(seen.logits[i], [log(value) for value in prediction(tree, s, leaves)])
        close(seen.logits[i].softmax(0).sum(), 1.0, 1e-6)
        close(seen.scores[i], s)
        close(seen.maps[i].flatten(1), [[exp(-d) for d in cells] for cells in distances(model, images)[i]])
        found = [arrival(tree, s, leaf) if leaf in leaves_below(tree) else 0.0 for leaf in range(LEAVES)]
        close(paths[i].exp(), found)


@pytest.mark.parametrize("route", ["sample_max", "greedy"])
def test_deterministic_routes(route, tree, model, images):
    leaves = model.leaves.tolist()
    model.route = route
    with torch.no_grad():
        found = model(images)
    for i, s in enumerate(right_turns(model, images)):
        node = tree
        while route == "greedy" and not isinstance(node, int):
            node = node[2] if s[node[0]] > 0.5 else node[1]
        if route == "sample_max":
            node = max(leaves_below(tree), key=lambda leaf: arrival(tree, s, leaf))
        close(found[i], [log(value) for value in softmax(leaves[node])])


def test_classes_of_nodes_are_those_of_the_leaves_below(tree, model):
    predicted = model.leaves.argmax(1).tolist()
    classes = {node[0]: {predicted[leaf] for leaf in leaves_below(node)} for node in nodes_of(tree)}
    for row in range(NODES):
        assert set(model.prototypes.classes[row].nonzero().flatten().tolist()) == classes.get(row, set())


def test_shown_map_is_the_sum_over_right_turns_to_the_class(tree, model, images):
    labels = torch.tensor([0, 1, 2, 3, 1, 2])
    predicted = model.leaves.argmax(1).tolist()
    features = model.backbone(images)
    with torch.no_grad():
        shown = model.attribute(features, labels).flatten(1)
    for i, s in enumerate(right_turns(model, images)):
        ends = [leaf for leaf in leaves_below(tree) if predicted[leaf] == labels[i]]
        d, expected = distances(model, images)[i], [0.0] * shown.shape[1]
        if ends:
            end = max(ends, key=lambda leaf: arrival(tree, s, leaf))
            rows = [row for row, right in path_to(tree, end) if right]
            expected = [sum(exp(-d[row][cell]) for row in rows) for cell in range(shown.shape[1])]
        close(shown[i], expected)
    with pytest.raises(NotApplicable, match="not additive"):
        model.contributions(features, labels)


def learner_of(model, batches=4):
    config = ProtoTree.Config(levels=LEVELS, schedule=Schedule(phases=[]))
    return ProtoTreeLearner(model, config, Silent(), batches)


def test_loss_and_leaf_update_over_two_batches(tree, model, images):
    learner, labels = learner_of(model), torch.tensor([0, 2, 1, 3, 3, 0])
    old = model.leaves.tolist()
    learner.before_epoch(0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        s, before = right_turns(model, images), model.leaves.tolist()
        given = [prediction(tree, s[n], before)[int(labels[n])] for n in range(6)]
        found = learner(images, labels, "joint")
        close(found["loss"].detach(), -sum(map(log, given)) / 6)
        found["loss"].backward()
        optimiser.step()  # the update counts paths from before the step
        learner.after_step()
        for leaf in range(LEAVES):
            share, path = softmax(before[leaf]), [0.0] * CLASSES
            for n, label in enumerate(labels.tolist()):
                if leaf in leaves_below(tree):
                    path[label] += arrival(tree, s[n], leaf) * share[label] / given[n]
            close(model.leaves[leaf], [max(before[leaf][c] - old[leaf][c] / 4, 0) + path[c] for c in range(CLASSES)])


def test_every_image_adds_one_to_the_leaves(model, images):
    learner, labels = learner_of(model), torch.tensor([0, 2, 1, 3, 3, 0])
    model.leaves.zero_()
    learner.before_epoch(0)
    learner(images, labels, "joint")
    learner.after_step()
    close(model.leaves.sum(0), [2.0, 1.0, 1.0, 2.0])


def pruned(tree, idle):
    """The tree without subtrees of idle leaves; a child of the root stays whole, as in the official code."""

    def all_idle(node):
        return all(leaf in idle for leaf in leaves_below(node))

    def walk(node, is_root):
        if isinstance(node, int) or (all_idle(node) and not is_root):
            return node
        row, left, right = node
        if not is_root and (all_idle(left) or all_idle(right)):
            return walk(right if all_idle(left) else left, False)
        return row, walk(left, False), walk(right, False)

    return walk(tree, True)


@pytest.mark.parametrize("tree", [*TREES, whole_tree(4)], ids=["complete", "chain", "deep"])
def test_pruning_of_every_set_of_idle_leaves(tree):
    levels = 4 if len(leaves_below(tree)) > LEAVES else LEVELS
    whole = soft_tree.complete_tree(4) if levels == 4 else turns_of(tree)
    generator = torch.Generator().manual_seed(0)
    sets = torch.rand(200, len(whole), generator=generator) < torch.rand(200, 1, generator=generator)
    for idle in sets:
        leaves = torch.zeros(len(whole), CLASSES)
        leaves[~idle, 1] = 2.0  # probability 0.71, that of an idle leaf is 0.25
        rest = pruned(tree, set(idle.nonzero().flatten().tolist()))
        expected = torch.zeros_like(whole)
        for leaf in leaves_below(rest):
            for row, right in path_to(rest, leaf):
                expected[leaf, row] = 1 if right else -1
        assert torch.equal(soft_tree.prune(whole, leaves, 0.5), expected), idle


def test_projection_of_a_pruned_tree_keeps_to_the_classes_below(model, tree, images):
    """Each node goes to the nearest patch of a class that a leaf below it predicts; removed nodes stay."""
    labels = torch.tensor([0, 2, 1, 3, 3, 0])
    model.leaves[:, 3] = 0.0  # no leaf predicts class 3
    learner = learner_of(model)
    learner.config = learner.config.model_copy(update={"pruning": 0.5})
    learner.act("prune", None)
    kept, d, before = model.turns.any(0), distances(model, images), model.prototype_vectors.detach().clone()
    with torch.no_grad():
        z = model.add_on_layers(model.backbone(images)).flatten(2)
    learner.act("project", TensorSamples(images, labels, CLASSES))
    for row in range(NODES):
        below = (model.turns[:, row] != 0).nonzero().flatten()
        allowed = {int(c) for c in model.leaves[below].argmax(1)}
        open_to_it = [n for n in range(6) if int(labels[n]) in allowed]
        if not kept[row] or not open_to_it:
            assert torch.equal(model.prototype_vectors[row], before[row])
            assert model.prototypes.source_image[row] == -1
            continue
        n, u = min(((n, u) for n in open_to_it for u in range(16)), key=lambda at: d[at[0]][row][at[1]])
        assert model.prototypes.source_image[row] == n
        assert model.prototypes.source_patch[row].tolist() == [u // 4, u % 4]
        torch.testing.assert_close(model.prototype_vectors[row, :, 0, 0], z[n, :, u])
