"""Axioms: analytic values for a linear head, the counter-example of a max-pool head, plain loops for both."""

import doctest

import numpy as np
import pytest
import torch
from torch import nn

import metrics.feature_sampling
from baselines.protopnet import ProtoPNetModel
from bench.contract import CellError, NotApplicable, Observation
from bench.posthoc.model import DecomposedClassifier
from metrics.axioms import Completeness, Linearity, Sensitivity, Symmetry
from metrics.feature_sampling import in_double, spread
from tests.oracle import axiom_loops
from tests.support.samples import TensorSamples

ALL = (Sensitivity, Completeness, Linearity, Symmetry)
CHANNELS, CLASSES = 6, 4


class Bare(nn.Module):
    """The images are the features."""

    channels = CHANNELS

    def forward(self, images):
        return images


def linear(k=2):
    torch.manual_seed(1)
    return DecomposedClassifier(Bare(), torch.randn(CLASSES, k, CHANNELS), torch.randn(CLASSES)).eval()


def maxpool():
    torch.manual_seed(2)
    return ProtoPNetModel(Bare(), CLASSES, 3, 5).eval()


def split(count=9, side=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(count, CHANNELS, side, side, generator=generator)
    return TensorSamples(maps, torch.randint(0, CLASSES, (count,), generator=generator), CLASSES)


@torch.no_grad()
def measure(kind, model, samples, batches=None, train=None, **settings):
    metric = kind(kind.Config(**settings), samples, model.prototypes)
    metric.prepare(train or samples)
    for batch in batches or [range(len(samples))]:
        at = torch.as_tensor(list(batch), dtype=torch.long)
        rest = (samples.keypoints[at], samples.visible[at], samples.boxes[at])
        metric.update(Observation(model, samples.images[at], samples.labels[at], at, *rest))
    return metric.compute()


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(metrics.feature_sampling) == (0, 1)


@pytest.mark.parametrize("reading", ["displayed", "contribution", "shapley"])
@pytest.mark.parametrize("kind", ALL)
def test_an_average_and_a_linear_layer_keep_every_axiom(kind, reading):
    found = measure(kind, linear(), split(), reading=reading)
    assert found.n == 9
    assert found.value <= 1e-12
    assert all(value <= 1e-11 for value in found.also.values())


def test_max_pooling_breaks_the_axioms_of_table_1():
    model, samples = maxpool(), split()
    shown = {kind.name: measure(kind, model, samples).value for kind in ALL}
    exact, shapley = (
        {kind.name: measure(kind, model, samples, reading=reading).value for kind in ALL}
        for reading in ("contribution", "shapley")
    )
    assert shown["sensitivity"] > 10  # cells away from the maxima are shown and change nothing
    assert shown["completeness"] > 1
    assert shown["linearity"] > 0.01
    assert shown["symmetry"] <= 1e-12  # the displayed map treats all cells alike
    assert exact["completeness"] <= 1e-12
    assert exact["symmetry"] > 0.1  # of two equal cells the first takes all
    # The same head, displayed otherwise: only what its maximum does remains broken.
    assert shapley["completeness"] <= 1e-12
    assert shapley["symmetry"] <= 1e-12
    assert shapley["sensitivity"] > 10
    assert shapley["linearity"] == shown["linearity"]
    assert measure(Linearity, model, samples).also["attribution"] <= 1e-12  # linear in the last layer by construction


@pytest.mark.parametrize("reading", ["displayed", "contribution", "shapley"])
@pytest.mark.parametrize("make", [linear, maxpool])
@torch.no_grad()
def test_residuals_are_those_of_plain_loops(make, reading):
    model, samples = make(), split(7, seed=3)
    shown = {"displayed": "attribute", "contribution": "contributions", "shapley": "shapley"}[reading]
    exact, maps = in_double(model), samples.images.double()
    predicted = exact.logits(maps).argmax(1).tolist()
    assert predicted != samples.labels.tolist()
    found = {kind: measure(kind, model, samples, reading=reading, seed=5) for kind in ALL if kind is not Sensitivity}
    tables = {kind: one.items["image"] for kind, one in found.items()}
    for baseline in ("zero", "mean"):
        replacement = maps.mean((0, 2, 3)) if baseline == "mean" else torch.zeros(CHANNELS).double()
        table = measure(Sensitivity, model, samples, reading=reading, baseline=baseline).items["image"]
        for i, x in enumerate(maps):
            for c, end in ((int(samples.labels[i]), ""), (predicted[i], "_predicted")):
                false, missed = axiom_loops.sensitivity(exact, x, c, shown, replacement)
                assert table[f"false{end}"][i] == pytest.approx(false)
                assert table[f"missed{end}"][i] == pytest.approx(missed)
    for i, x in enumerate(maps):
        for c, end in ((int(samples.labels[i]), ""), (predicted[i], "_predicted")):
            absolute, relative = axiom_loops.completeness(exact, x, c, shown)
            assert tables[Completeness][f"absolute{end}"][i] == pytest.approx(absolute, abs=1e-10)
            assert tables[Completeness][f"gap{end}"][i] == pytest.approx(relative, abs=1e-10)
            generator = np.random.default_rng((5, 2, i))
            order, step = generator.permutation(9), generator.integers(1, 9)
            moved = axiom_loops.permutation(exact, x, c, shown, order)
            assert tables[Symmetry][f"permutation{end}"][i] == pytest.approx(moved, abs=1e-10)
            copied = axiom_loops.copy_gap(exact, x, c, shown, step)
            assert tables[Symmetry][f"copy{end}"][i] == pytest.approx(copied, abs=1e-10)
        a, b = np.random.default_rng((5, 1, i)).uniform(0.2, 1, 2)
        gap = axiom_loops.linearity(exact, x, maps[(i + 1) % 7], int(samples.labels[i]), a, b)
        assert tables[Linearity]["head"][i] == pytest.approx(gap, abs=1e-10)
    assert found[Symmetry].value == max(found[Symmetry].also[name] for name in ("copy", "permutation"))


@pytest.mark.parametrize("kind", ALL)
def test_order_and_size_of_batches_do_not_matter(kind):
    model, samples = maxpool(), split(8)
    whole = measure(kind, model, samples).items["image"]
    for batches in ([[i] for i in range(8)], [[5, 2, 7], [0], [6, 1, 3, 4]]):
        other = measure(kind, model, samples, batches).items["image"]
        for name, values in whole.items():
            np.testing.assert_allclose(other[name], values, rtol=1e-9, atol=1e-12, err_msg=name)


def test_only_some_images_are_measured():
    samples = split(9)
    assert spread(9, 4).tolist() == [0, 2, 4, 6]
    found = measure(Completeness, linear(), samples, [[0, 1, 2], [3], [4, 5, 6, 7, 8]], images=4)
    assert found.items["image"]["index"].tolist() == [0, 2, 4, 6]
    assert len(spread(0, 4)) == 0


def test_axioms_not_applicable():
    samples = split(2)

    class Apart(DecomposedClassifier):
        apart = "its prototypes have parts of their own"

        def contributions(self, features, classes):
            return super(DecomposedClassifier, self).contributions(features, classes)

        def shapley(self, features, classes):
            return super(DecomposedClassifier, self).shapley(features, classes)

    model = Apart(Bare(), torch.randn(CLASSES, 2, CHANNELS), torch.randn(CLASSES))
    with pytest.raises(NotApplicable, match="parts of their own"):
        measure(Symmetry, model, samples)
    with pytest.raises(NotApplicable, match="no sums of contributions"):
        measure(Completeness, model, samples, reading="contribution")
    with pytest.raises(NotApplicable, match="no sums over cells or of maxima"):
        measure(Completeness, model, samples, reading="shapley")
    assert measure(Completeness, model, samples).value <= 1e-12


def test_a_map_of_other_cells_is_refused():
    class Coarse(DecomposedClassifier):
        def attribute(self, features, classes):
            return super().attribute(features, classes)[:, ::2, ::2]

    model = Coarse(Bare(), torch.randn(CLASSES, 2, CHANNELS), torch.randn(CLASSES))
    with pytest.raises(NotApplicable, match="2x2 cells, not the 3x3"):
        measure(Sensitivity, model, split(2))
    assert measure(Completeness, model, split(2)).n == 2  # a sum needs no cells in common


def test_broken_and_constant_maps():
    samples = split(2)
    samples.images[1, 0, 0, 0] = float("nan")
    with pytest.raises(CellError, match="not finite"):
        measure(Completeness, linear(), samples)
    samples.images[:] = 0.5  # all cells alike: the map is constant
    assert measure(Symmetry, linear(), samples).value <= 1e-12
    assert measure(Sensitivity, linear(), samples).value == 0
    samples.images[:] = 0
    assert all(measure(kind, linear(), samples).value <= 1e-12 for kind in ALL)


def test_nothing_to_measure():
    empty = split(0)
    for kind in ALL:
        with pytest.raises(NotApplicable, match="no test image"):
            measure(kind, linear(), empty, batches=[[]])


@torch.no_grad()
def test_head_is_measured_in_double_and_left_alone():
    for model in (linear(), maxpool()):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        logits = in_double(model).logits(torch.rand(2, CHANNELS, 3, 3).double())
        assert logits.dtype == torch.float64
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert {value.dtype for value in model.state_dict().values()} >= {torch.float32}
