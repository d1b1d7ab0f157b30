"""EPIC, DFF, CRAFT and IBD against plain loops: logits are prototypes' contributions and a remainder, cell by cell."""

import doctest

import pytest
import scipy.optimize
import torch

from baselines import craft, dff, epic, ibd
from baselines.craft import CRAFT
from baselines.dff import DFF
from baselines.epic import EPIC
from baselines.ibd import IBD, IBDKeypoints
from bench.models.classifier import Classifier
from tests.support.samples import SmallNet, stripes, task

CASES = {
    "dff": (DFF, {"k": 2}),
    "craft": (CRAFT, {"k": 3}),
    "ibd": (IBD, {"k": 3, "bank": 2}),
    "ibd-keypoints": (IBDKeypoints, {"k": 2}),
    "epic": (EPIC, {"k": 3, "first": 4, "lr": 0.02}),
    "epic-general": (EPIC, {"k": 3, "first": 4, "lr": 0.02, "matrix": "general"}),
}
WIDE = (24, 32)  # a map of 3 x 4 cells, so that rows and columns are not the same


@pytest.fixture(scope="module", params=CASES)
def fitted(request, tmp_path_factory):
    """Name, model and black box; the head counts a class that the data set does not have."""
    method, settings = CASES[request.param]
    torch.manual_seed(3)
    box, samples = Classifier(SmallNet(), 4).eval(), stripes()
    samples.keypoints[:] = torch.tensor([[3.0, 30.0], [20.0, 9.0]], dtype=torch.float64)
    samples.visible[:] = True
    work = task(tmp_path_factory.mktemp("fit"), samples, method.Config(**settings), black_box=box, absent_classes=1)
    model = method().fit(work)
    other = method().build(work)
    other.load_state_dict(model.state_dict())
    return request.param, other.eval(), box


def drawn(count=3):
    return torch.randn(count, 3, *WIDE, generator=torch.Generator().manual_seed(1))


def cells_of(features):
    """Features of one image as a list of ``(row, column, numbers)``."""
    return [
        (y, x, features[:, y, x].double().tolist()) for y in range(features.shape[1]) for x in range(features.shape[2])
    ]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def presence(name, vectors, cell):
    """The maps' values in a cell, of a class's prototypes."""
    if name in ("dff", "craft"):
        positive = [max(value, 0.0) for value in cell]
        return scipy.optimize.nnls(torch.tensor(vectors).T.numpy(), positive)[0].tolist()
    return [dot(vector, cell) for vector in vectors]


@torch.no_grad()
def test_parts_and_remainder_are_the_logit_cell_by_cell(fitted):
    name, model, box = fitted
    images, labels = drawn(), torch.tensor([2, 0, 1])
    features = model.backbone(images)
    assert torch.equal(model.logits(features), box(images))
    found, own = model.attribute(features, labels), model.head(features, labels)
    rest, whole = model.remainder(features, labels), model.contributions(features, labels)
    carried, weight, bias = model.prototype_logits(features), box.head.weight.double(), box.head.bias.double()
    for n, label in enumerate(labels.tolist()):
        owned = [j for j in range(len(model.prototypes)) if model.prototypes.classes[j, label]]
        assert own.indices[n].tolist()[: len(owned)] == owned
        vectors, shares = model.prototypes.vectors[owned].tolist(), model.shares[owned, label].tolist()
        cells, total, logit = cells_of(features[n]), 0.0, float(bias[label])
        for y, x, cell in cells:
            maps = presence(name, vectors, cell)
            assert own.maps[n, : len(owned), y, x].tolist() == pytest.approx(maps, rel=1e-3, abs=1e-4)
            part = dot(maps, shares) / len(cells)
            exact = dot(cell, weight[label].tolist()) / len(cells)
            assert float(found[n, y, x]) == pytest.approx(part, rel=1e-3, abs=1e-4)
            assert float(whole[n, y, x]) == pytest.approx(exact, rel=1e-3, abs=1e-5)
            assert float(rest[n, y, x]) == pytest.approx(exact - part, rel=1e-3, abs=1e-4)
            total, logit = total + part, logit + exact
        assert logit == pytest.approx(float(box(images)[n, label]), abs=1e-4)
        assert float(carried[n, label]) == pytest.approx(total + float(bias[label]), rel=1e-3, abs=1e-4)
    # The class that the data set does not have: no prototype carries anything of it.
    absent = torch.full_like(labels, 3)
    assert not model.attribute(features, absent).any()
    torch.testing.assert_close(carried[:, 3], box.head.bias[3].expand(3))


@torch.no_grad()
def test_shares_are_what_a_unit_of_the_map_adds(fitted):
    name, model, box = fitted
    weight, vectors, classes = box.head.weight.double(), model.prototypes.vectors, model.prototypes.classes
    for j, c in classes.nonzero().tolist():
        if name in ("dff", "craft"):
            assert float(model.shares[j, c]) == pytest.approx(dot(vectors[j].tolist(), weight[c].tolist()), rel=1e-6)
        elif name.startswith("ibd"):
            assert float(model.shares[j, c]) == 1
    assert not model.shares[~classes].any()
    if name.startswith("epic"):
        return
    assert classes.sum(1).eq(1).all()
    scores = model.explain(drawn(), torch.tensor([2, 0, 1])).scores.sum(1)
    own = model.prototype_logits(model.backbone(drawn()))[range(3), [2, 0, 1]] - box.head.bias[[2, 0, 1]]
    torch.testing.assert_close(scores, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", [craft, dff, epic, ibd], ids=lambda module: module.__name__)
def test_the_examples_are_true(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed
