"""Memory that is stated is memory that is kept to: changed feature maps of every network's head."""

import pytest
import torch
from torch import nn

from bench.core.memory import PeakMemory
from metrics import feature_sampling
from metrics.feature_sampling import Features, in_double, logit_changes
from metrics.peaks import peaks
from tests.support.networks import NETWORKS
from tests.support.samples import stripes, task

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda:0")
SIDE, BUDGET = 7, 2**23


class WideNet(nn.Module):
    channels = 64

    def forward(self, images):
        return images.new_zeros(len(images), self.channels, SIDE, SIDE)


@pytest.mark.parametrize(("name", "deformed"), [*((name, False) for name in NETWORKS), ("deformable", True)])
@torch.no_grad()
def test_changed_maps_take_at_most_twice_their_budget(name, deformed, tmp_path, monkeypatch):
    work = task(tmp_path, stripes(), NETWORKS[name].config(), make=WideNet)
    model = NETWORKS[name].method().build(work)
    if deformed:
        model.open_offsets(0)
    model = in_double(model.to(CUDA))
    maps = torch.rand(4, WideNet.channels, SIDE, SIDE, dtype=torch.float64, device=CUDA)
    classes = torch.zeros(2, 4, dtype=torch.long, device=CUDA)
    features = Features(model, maps, model.logits(maps), classes, torch.arange(4, device=CUDA))
    monkeypatch.setattr(feature_sampling, "_BUDGET", {"cpu": BUDGET, "cuda": BUDGET})
    with PeakMemory(CUDA) as peak:
        logit_changes(features, maps.new_zeros(WideNet.channels))
    assert BUDGET / 16 < peak.growth < 2 * BUDGET


@pytest.mark.parametrize("side", [7, 14, 28])
def test_peaks_take_at_most_twice_their_budget(side):
    maps = torch.rand(1, 2000, side, side, device=CUDA)
    with PeakMemory(CUDA) as peak:
        peaks(maps, budget=BUDGET)
    assert peak.growth < 2 * BUDGET
