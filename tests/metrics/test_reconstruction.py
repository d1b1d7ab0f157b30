"""Reconstruction against a loop over images, and on models whose prototypes carry everything, or do not say."""

import pytest
import torch

from baselines.cosine_head import CosineHeadModel
from bench.contract import NotApplicable
from metrics.accuracy import Accuracy
from metrics.reconstruction import Reconstruction
from tests.support.ragged_model import COUNT, SumOfMaps, case, measure
from tests.support.samples import SmallNet, stripes


class Carrying(SumOfMaps):
    """Model whose prototypes carry given parts of the logits."""

    parts = None

    def prototype_logits(self, features):
        return self.parts[self._index(features)]

    def offset(self, classes):
        return 0.25 * classes


def carrying(parts):
    plain, split, _ = case()
    model = Carrying(plain.prototypes.classes, plain.clean, logits=plain.answers)
    model._index = lambda features: (features[:, 0, 0, 0] / 10).round().long()
    model.parts = parts(model.answers)
    return model, split


def test_accuracy_and_share_of_what_is_carried():
    noise = torch.randn(COUNT, 4, generator=torch.Generator().manual_seed(8))
    model, split = carrying(lambda logits: 0.5 * logits + noise)
    found, right, shares = measure(Reconstruction, model, split), 0, []
    for n, label in enumerate(split.labels.tolist()):
        carried = model.parts[n].tolist()
        right += carried.index(max(carried)) == label
        part = carried[label] - 0.25 * label
        rest = float(model.answers[n, label]) - 0.25 * label - part
        shares.append(100 * abs(part) / (abs(part) + abs(rest)))
    assert found.value == pytest.approx(100 * right / COUNT)
    assert found.also["share"] == pytest.approx(sum(shares) / COUNT, rel=1e-5)
    assert 0 < found.also["share"] < 100


def test_prototypes_that_carry_all_of_it():
    model, split = carrying(torch.clone)
    found = measure(Reconstruction, model, split)
    assert found.value == pytest.approx(measure(Accuracy, model, split).value)
    assert found.also["share"] == 100


def test_models_that_do_not_say_are_left_out():
    with pytest.raises(NotApplicable, match="which part of a logit"):
        measure(Reconstruction)


def test_networks_of_maxima_carry_the_terms_of_their_own_prototypes():
    torch.manual_seed(0)
    model, images = CosineHeadModel(SmallNet(), 3, 2).eval(), stripes().images[:4]
    with torch.no_grad():
        model.last_layer.weight.add_(torch.randn(3, 6))
        scores, found = model.explain(images).scores, model.prototype_logits(model.backbone(images))
    weight = model.last_layer.weight.detach()
    for n in range(4):
        for c in range(3):
            own = sum((weight[c, j] * scores[n, j]).item() for j in (2 * c, 2 * c + 1))
            assert float(found[n, c]) == pytest.approx(own, rel=1e-5)
