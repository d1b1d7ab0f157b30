"""Grad-CAM and HiResCAM against differences of logits of a curved head, and on pooling and a linear layer."""

import pytest
import torch
from torch import nn

from baselines.gradcam import GradCAM, GradientMaps, HiResCAM
from bench.models.classifier import Classifier
from bench.posthoc.method import BlackBox
from tests.support.samples import SmallNet, stripes, task

CURVED = nn.Sequential(nn.Conv2d(16, 4, 1), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 12, 3))


def features_of(images):
    torch.manual_seed(1)
    with torch.no_grad():
        return SmallNet().double().eval()(images)


@pytest.mark.parametrize("averaged", [True, False])
def test_maps_follow_the_slopes_of_the_logit(averaged):
    torch.manual_seed(0)
    head = CURVED.double()
    x = features_of(torch.randn(2, 3, 24, 32, dtype=torch.float64))
    with torch.inference_mode():
        zero = head(torch.zeros_like(x[:1]))[0]
        model = GradientMaps(nn.Identity(), head, zero, averaged).double().eval()
        found, classes = model.head(x), [2, 1]
        own = model.head(x, torch.tensor(classes))
        shown = model.attribute(x, torch.tensor(classes))
    for n, c in enumerate(classes):
        slopes = torch.zeros_like(x[n])
        for place in torch.ones_like(x[n]).nonzero().tolist():
            ends = []
            for step in (1e-5, -1e-5):
                moved = x[n : n + 1].clone()
                moved[0][tuple(place)] += step
                ends.append(head(moved)[0, c].item())
            slopes[tuple(place)] = (ends[0] - ends[1]) / 2e-5
        for y in range(3):
            for z in range(4):
                if averaged:
                    weights = [float(slopes[d].mean()) for d in range(16)]
                    value = max(sum(w * float(x[n, d, y, z]) for d, w in enumerate(weights)), 0.0)
                else:
                    value = sum(float(slopes[d, y, z] * x[n, d, y, z]) for d in range(16))
                assert float(found.maps[n, c, y, z]) == pytest.approx(12 * value, rel=1e-5, abs=1e-8)
                assert float(shown[n, y, z]) == pytest.approx(value, rel=1e-5, abs=1e-8)
    assert torch.equal(own.maps[:, 0], found.maps[range(2), classes])
    assert torch.equal(model.offset(torch.tensor([1, 2])), zero[[1, 2]])


def test_a_gradient_flows_through_the_maps():
    """An attack on the image needs the second derivative of a curved head."""
    torch.manual_seed(0)
    x = features_of(torch.randn(1, 3, 24, 32, dtype=torch.float64)).requires_grad_()
    model = GradientMaps(nn.Identity(), CURVED.double(), torch.zeros(3, dtype=torch.float64), False)
    assert torch.autograd.gradcheck(lambda one: model.maps(one, torch.tensor([1])), (x,))


def test_with_pooling_and_a_linear_layer_they_are_the_black_boxes_map(tmp_path):
    torch.manual_seed(2)
    samples, box = stripes(), Classifier(SmallNet(), 3).eval()
    fits = [
        method().fit(task(tmp_path, samples, method.Config(), black_box=box))
        for method in (BlackBox, GradCAM, HiResCAM)
    ]
    with torch.no_grad():
        plain, cut, whole = (model.eval().explain(samples.images, samples.labels) for model in fits)
        assert plain.maps.amin() < 0 < plain.maps.amax()
        torch.testing.assert_close(cut.maps, plain.maps.relu(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(whole.maps, plain.maps, rtol=1e-4, atol=1e-5)
        for model in fits[1:]:
            assert torch.equal(model(samples.images), box(samples.images))
        gap = whole.scores[:, 0] + fits[2].offset(samples.labels) - box(samples.images)[range(36), samples.labels]
        assert gap.abs().max() < 1e-5
