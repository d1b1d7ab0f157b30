"""PIP-Net's sizes against loops over images, prototypes and classes."""

import pytest
import torch

from baselines.cosine_head import CosineHeadModel
from baselines.pipnet import PIPNetModel
from bench.contract import CellError, NotApplicable
from metrics.explanation_size import ExplanationSize
from tests.support.ragged_model import case, measure
from tests.support.samples import SmallNet, stripes


@pytest.mark.parametrize("signed", [False, True])
def test_sizes(signed):
    torch.manual_seed(0)
    model = CosineHeadModel(SmallNet(), 3, 2) if signed else PIPNetModel(SmallNet(), 3, 6, 2)
    with torch.no_grad():
        model.last_layer.weight.copy_(torch.randn(3, 6) if signed else torch.rand(3, 6) * (torch.rand(3, 6) > 0.6))
        model.last_layer.weight[:, 4] = torch.tensor([0.0005, 0.0, 0.0])
        if not signed:  # so that some prototypes are present in an image and some are not
            model.to_shares[0].weight.mul_(8)
    split = stripes()
    found = measure(ExplanationSize, model.eval(), split)
    weight, every, own = model.last_layer.weight.tolist(), [], []
    for image in split.images:
        shown = model.explain(image[None])
        scores, best = shown.scores[0].tolist(), int(shown.logits[0].argmax())
        every.append(sum(any(weight[c][j] * scores[j] > 0.001 for c in range(3)) for j in range(6)))
        own.append(sum(weight[best][j] * scores[j] > 0.001 for j in range(6)))
    assert found.items["image"]["local"].tolist() == every
    assert found.value == pytest.approx(sum(every) / len(every))
    assert 0 < min(every) < 5
    assert found.also == {
        "predicted": pytest.approx(sum(own) / len(own)),
        "whole": sum(any(weight[c][j] > 0.001 for c in range(3)) for j in range(6)),
        "sparsity": pytest.approx(100 * sum(w <= 0.001 for row in weight for w in row) / 18),
    }


def test_what_has_no_sizes_is_refused():
    with pytest.raises(NotApplicable, match="weighted sums"):
        measure(ExplanationSize)
    model, split = CosineHeadModel(SmallNet(), 3, 2).eval(), stripes()
    broken = split.images.clone()
    broken[7] = torch.nan
    split.images = broken
    with pytest.raises(CellError, match="test image 7 "):
        measure(ExplanationSize, model, split)
    assert case()[0].prototypes.classes.any()  # the first was refused for its logits, not for want of prototypes
