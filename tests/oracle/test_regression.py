"""Key-point regression against plain loops and numpy's least squares, and cases worked by hand."""

import doctest

import numpy as np
import pytest
import torch

import metrics.regression
from bench.contract import NotApplicable, Observation
from metrics.regression import KeypointRegression, centroids
from tests.support.samples import TensorSamples
from tests.support.scripted_model import ScriptedModel, images

COUNT, CLASSES, PARTS = 24, 3, 4


def case():
    """Class 0 has two prototypes, class 1 three, class 2 none; the second half of the images is the test split."""
    generator = torch.Generator().manual_seed(0)
    owners = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0]]).bool()
    maps = torch.rand(COUNT, 4, 5, 7, generator=generator) - 0.3
    labels = torch.arange(COUNT) % 3
    points = 224 * torch.rand(COUNT, PARTS, 2, generator=generator, dtype=torch.float64)
    visible = torch.rand(COUNT, PARTS, generator=generator) < 0.8
    visible[:12, 3] = False  # no training image shows part 3
    model = ScriptedModel(owners, maps)
    return model, *(split(labels, points, visible, half) for half in (slice(0, 12), slice(12, COUNT)))


def split(labels, points, visible, part):
    found = TensorSamples(images(len(labels))[part], labels[part], CLASSES)
    found.keypoints, found.visible = points[part], visible[part]
    found.parts = [f"part {k}" for k in range(PARTS)]
    return found


@torch.no_grad()
def measure(model, train, test, batches=None):
    metric = KeypointRegression(KeypointRegression.Config(), test, model.prototypes)
    metric.prepare(train)
    for batch in batches or [range(len(test))]:
        at = torch.as_tensor(list(batch), dtype=torch.long)
        boxes = torch.zeros(len(at), 4)
        seen = Observation(model, test.images[at], test.labels[at], at, test.keypoints[at], test.visible[at], boxes)
        metric.update(seen)
    return metric.compute()


def place(grid):
    """The centroid of one map, cell by cell."""
    low = min(float(value) for row in grid for value in row)
    total = row_sum = column_sum = 0.0
    for i, row in enumerate(grid):
        for j, value in enumerate(row):
            weight = float(value) - low
            total += weight
            row_sum += weight * (i + 0.5) / len(grid)
            column_sum += weight * (j + 0.5) / len(row)
    return row_sum / total, column_sum / total


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(metrics.regression) == (0, 1)


def test_regression_equals_plain_loops_and_numpy():
    model, train, test = case()
    owned = {c: [p for p in range(4) if model.prototypes.classes[p, c]] for c in range(CLASSES)}
    distances = []
    for c in (0, 1):
        for part in range(PARTS):
            rows = [i for i in range(12) if train.labels[i] == c and train.visible[i, part]]
            if not rows:
                continue
            inputs = [[x for p in owned[c] for x in place(model.clean[i, p])] for i in rows]
            targets = [(train.keypoints[i, part] / 224).tolist() for i in rows]
            linear = np.linalg.lstsq(np.array(inputs), np.array(targets), rcond=1e-6)[0]
            for i in range(12):
                if test.labels[i] == c and test.visible[i, part]:
                    said = np.array([x for p in owned[c] for x in place(model.clean[12 + i, p])]) @ linear
                    distances.append(100 * float(np.linalg.norm(said - test.keypoints[i, part].numpy() / 224)))
    found = measure(model, train, test)
    assert found.n == len(distances)
    assert found.value == pytest.approx(np.mean(distances))


def test_order_and_size_of_batches_do_not_matter():
    whole = measure(*case())
    for batches in ([[i] for i in range(12)], [[3, 9, 1], [0], [11, 10, 8, 7], [2, 4, 5, 6]]):
        assert measure(*case(), batches=batches).value == pytest.approx(whole.value)


def test_prototypes_that_follow_the_parts_tell_them_exactly():
    """Each map is one hot cell in which its part is, in the cell's middle: the linear map is the identity."""
    _, train, test = case()
    generator = torch.Generator().manual_seed(1)
    cells = torch.randint(0, 7, (COUNT, 2, 2), generator=generator)
    maps = torch.zeros(COUNT, 2, 7, 7)
    for i in range(COUNT):
        for k in range(2):
            maps[i, k, cells[i, k, 0], cells[i, k, 1]] = 1
    following = ScriptedModel(torch.ones(2, CLASSES).bool(), maps)
    points = (cells.double() + 0.5) * 32
    for part, own in ((slice(0, 12), train), (slice(12, COUNT), test)):
        own.keypoints, own.parts = points[part], ["beak", "tail"]
        own.visible = torch.ones(12, 2).bool()
    # Four training images of a class against four inputs: enough for an exact map.
    assert measure(following, train, test).value == pytest.approx(0, abs=1e-6)


def test_constant_maps_predict_the_mean_position():
    _, train, test = case()
    still = ScriptedModel(torch.ones(1, CLASSES).bool(), torch.ones(COUNT, 1, 7, 7))
    assert centroids(still.clean)[0, 0].tolist() == [0.5, 0.5]
    distances = []
    for c in range(CLASSES):
        for part in range(PARTS):
            rows = [i for i in range(12) if train.labels[i] == c and train.visible[i, part]]
            for i in range(12):
                if rows and test.labels[i] == c and test.visible[i, part]:
                    # The two inputs are equal, so each coordinate is predicted by a mean over training images.
                    mean = train.keypoints[rows, part].mean(0)
                    distances.append(100 * float((mean - test.keypoints[i, part]).norm()) / 224)
    assert measure(still, train, test).value == pytest.approx(np.mean(distances))


def test_regression_not_applicable():
    model, train, test = case()
    train.visible = torch.zeros_like(train.visible)
    with pytest.raises(NotApplicable, match="no test image shows a part that a training image"):
        measure(model, train, test)
    test.parts = []
    with pytest.raises(NotApplicable, match="no part key-points"):
        measure(model, train, test)
    with pytest.raises(NotApplicable, match="no prototype that speaks for a class"):
        measure(ScriptedModel(torch.zeros(0, CLASSES).bool(), torch.zeros(COUNT, 0, 7, 7)), *case()[1:])
