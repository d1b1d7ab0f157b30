"""Sufficiency and necessity against loops that take prototypes out of a head one by one."""

import numpy as np
import pytest
import torch

from bench.contract import NotApplicable
from bench.posthoc.model import DecomposedClassifier
from metrics.sufficiency import Sufficiency
from tests.support.ragged_model import CLASSES, COUNT, case, measure
from tests.support.scripted_model import ScriptedModel, images, score


class Additive(ScriptedModel):
    """Logits are the scores times a table of weights ``(P, C)``, plus a bias."""

    def __init__(self, classes, maps, weights, bias):
        super().__init__(classes, maps, logits=maps.amax((2, 3)) @ weights + bias)
        self.table = weights

    def connections(self, prototypes):
        return self.table[prototypes]


def additive():
    generator = torch.Generator().manual_seed(2)
    model, split, owned = case()
    weights = model.prototypes.classes.float() + 0.4 * torch.randn(5, CLASSES, generator=generator)
    bias = 0.3 * torch.randn(CLASSES, generator=generator)
    return Additive(model.prototypes.classes, 3 * model.clean, weights, bias), split, owned


def softmax(values):
    high = np.exp(values - values.max())
    return high / high.sum()


def changed(model, i, gone):
    """Logits of an image without some prototypes."""
    scores = model.clean[i].amax((1, 2)).double().numpy().copy()
    scores[list(gone)] = 0
    bias = (model.answers[i] - model.clean[i].amax((1, 2)) @ model.table).double().numpy()
    return scores @ model.table.double().numpy() + bias


@pytest.mark.parametrize("mode", ["alone", "without"])
def test_one_prototype_after_the_other_is_taken_out(mode):
    model, split, owned = additive()
    rows = []
    for i in range(COUNT):
        top = int(model.answers[i].argmax())
        terms = {p: float(model.clean[i, p].max() * model.table[p, top]) for p in owned[top]}
        order = sorted(owned[top], key=lambda p: -terms[p])
        # The random order of an image follows from the seed and its position; the largest class has three prototypes.
        drawn = np.random.default_rng((0, i)).random(3)[: len(order)]
        found = []
        for one in (order, [order[k] for k in np.argsort(drawn)]):
            left_out = [one[m:] if mode == "alone" else one[:m] for m in range(len(one) + 1)]
            logits = [changed(model, i, gone) for gone in left_out]
            yes = [(int(values.argmax()) == top) == (mode == "alone") for values in logits[1:]]
            chance = [softmax(values)[top] for values in logits]
            found += [yes, (sum(chance) - (chance[0] + chance[-1]) / 2) / max(1, len(one))]
        if order:
            rows.append(found)
    found = measure(Sufficiency, model, split, mode=mode)
    assert found.n == len(rows)
    for number in (1, 2, 3, 5):
        expected = 100 * np.mean([yes[min(number, len(yes)) - 1] for yes, *_ in rows])
        assert (found.value if number == 1 else found.also[f"at_{number}"]) == pytest.approx(expected)
    assert found.also["area"] == pytest.approx(100 * np.mean([area for _, area, *_ in rows]), rel=1e-5)
    assert found.also["random"] == pytest.approx(100 * np.mean([yes[0] for *_, yes, _ in rows]))
    assert found.also["area_random"] == pytest.approx(100 * np.mean([area for *_, area in rows]), rel=1e-5)
    assert found.also["prototypes"] == pytest.approx(np.mean([len(yes) for yes, *_ in rows]))
    moved = [yes for yes, *_ in rows if any(yes)]
    assert found.also["smallest"] == pytest.approx(np.mean([yes.index(True) + 1 for yes in moved]))
    if mode == "without":
        assert found.also["unmoved"] == pytest.approx(100 * (1 - len(moved) / len(rows)))
    for which, name in ((0, "by_contribution"), (2, "random")):
        curve = found.items["curve"][name]
        assert curve.tolist() == pytest.approx([
            100 * np.mean([row[which][min(m, len(row[which]) - 1)] for row in rows]) for m in range(len(curve))
        ])  # fmt: skip


def hand(terms, rival, **settings):
    """One image of class 0 whose prototypes add ``terms`` to its logit, against a rival with a logit of its own."""
    count = len(terms)
    maps = torch.tensor(terms)[None, :, None, None].expand(1, count, 2, 2)
    weights = torch.tensor([[1.0, 0.0]] * count)
    model = Additive(torch.tensor([[True, False]] * count), maps, weights, torch.tensor([0.0, rival]))
    return score(Sufficiency, model, images(1), [0], [[(0, 0)]], [[True]], **settings)


def test_worked_by_hand():
    # 5 + 2 + 1 = 8 against 6: one is not enough, two are; without the first there are 3.
    assert (hand([2.0, 5.0, 1.0], 6.0).value, hand([2.0, 5.0, 1.0], 6.0).also["smallest"]) == (0, 2)
    assert hand([2.0, 5.0, 1.0], 6.0, mode="without").value == 100
    # Against 2 the first alone is enough, and without it 3 are left: nothing is needed until two are gone.
    assert hand([2.0, 5.0, 1.0], 2.0).value == 100
    found = hand([2.0, 5.0, 1.0], 2.0, mode="without")
    assert (found.value, found.also["smallest"], found.also["at_2"]) == (0, 2, 100)
    # A negative term keeps the rest from it: all are there, though 9 alone would do.
    assert hand([9.0, -1.0], 3.0).value == 100


def test_a_prediction_that_no_prototype_makes():
    found = hand([1.0, 1.0], -5.0, mode="without")
    assert (found.value, found.also["unmoved"]) == (0, 100)
    assert "smallest" not in found.also


def test_chance_is_that_of_random_prototypes():
    # One of four is enough: the best always, a random one in a quarter of the images.
    count = 400
    maps = torch.tensor([9.0, 0.1, 0.1, 0.1])[None, :, None, None].expand(count, 4, 2, 2)
    model = Additive(torch.tensor([[True, False]] * 4), maps, torch.tensor([[1.0, 0.0]] * 4), torch.tensor([0.0, 5.0]))
    points = torch.zeros(count, 1, 2)
    found = score(Sufficiency, model, images(count), [0] * count, points, torch.ones(count, 1).bool())
    assert found.value == 100
    assert found.also["random"] == pytest.approx(25, abs=7)


def test_logits_that_do_not_add_up():
    with pytest.raises(NotApplicable, match="no weighted sums"):
        measure(Sufficiency)


def test_a_decomposition_adds_up_with_its_bias():
    generator = torch.Generator().manual_seed(0)
    vectors, bias = torch.randn(3, 2, 4, generator=generator), torch.randn(4, generator=generator)
    model = DecomposedClassifier(torch.nn.Identity(), vectors, bias, torch.randn(1, 4, generator=generator))
    features = torch.rand(5, 4, 2, 2, generator=generator)
    seen = model.head(features)
    added = torch.einsum("np,npc->nc", seen.scores, model.connections(torch.arange(6).expand(5, -1))) + bias
    # The last class has no prototypes: nothing adds up to its logit.
    torch.testing.assert_close(added[:, :3], seen.logits[:, :3])
