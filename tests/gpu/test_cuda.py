"""The same numbers on a CUDA device as on the CPU, where arithmetic allows it."""

import pytest
import torch

from bench.contract import Observation
from bench.models.classifier import Classifier
from bench.posthoc.method import PostHocPPN
from metrics.consistency import Consistency
from metrics.noise import NoiseAhead, gaussian_noise
from metrics.parts import peaks
from tests.support.samples import SmallNet, stripes, task

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("side", [7, 14, 28])
def test_peaks(side):
    maps = torch.randn(8, 20, side, side, generator=torch.Generator().manual_seed(0))
    assert torch.equal(peaks(maps), peaks(maps.cuda()).cpu())
    flat = torch.zeros(1, 2, side, side)
    assert torch.equal(peaks(flat), peaks(flat.cuda()).cpu())


def test_noise_is_the_same_on_every_device():
    index = torch.arange(5)
    settings = {"sigma": 0.2, "clip": 0.25, "seed": 0, "draw": 0}
    one = gaussian_noise(index, (3, 8, 8), **settings)
    other = gaussian_noise(index.cuda(), (3, 8, 8), **settings)
    assert torch.equal(one, other.cpu())
    del settings["draw"]
    ahead = NoiseAhead(len(index), (3, 8, 8), pinned=True, **settings)
    batches = [ahead.of(batch) for batch in index.split(2)]
    assert all(batch.is_pinned() for batch in batches)
    assert torch.equal(one, torch.cat(batches))


def test_decomposition_and_consistency(tmp_path):
    samples = stripes(size=64)
    samples.keypoints[:] = torch.tensor([[10.0, 20.0], [50.0, 40.0]], dtype=torch.float64)
    samples.visible[:] = True
    found = {}
    for name in ("cpu", "cuda:0"):
        device = torch.device(name)
        torch.manual_seed(0)
        box = Classifier(SmallNet(), 3).eval().to(device)
        work = task(tmp_path / device.type, samples, PostHocPPN.Config(k=2), black_box=box)
        work.device = device
        model = PostHocPPN().fit(work)
        images, labels = samples.images.to(device), samples.labels.to(device)
        with torch.no_grad():
            assert torch.equal(model(images), box(images))
        metric = Consistency(Consistency.Config(), samples, model.prototypes)
        points, visible, boxes = (t.to(device) for t in (samples.keypoints, samples.visible, samples.boxes))
        with torch.no_grad():
            metric.update(
                Observation(model, images, labels, torch.arange(len(labels), device=device), points, visible, boxes)
            )
        found[device.type] = (model.vectors.cpu(), metric.compute().value)
    torch.testing.assert_close(found["cpu"][0], found["cuda"][0], rtol=1e-2, atol=1e-3)
    assert found["cpu"][1] == pytest.approx(found["cuda"][1])
