"""Memory that is stated is memory that is kept to: by every network's head, and by every metric of every network."""

import contextlib
import gc
import sys

import pytest
import torch
from torch import nn

from bench.contract import NotApplicable
from bench.core import registry
from bench.core.memory import PeakMemory
from bench.diagnostics.synthetic import SmallNet
from bench.models.classifier import Classifier
from bench.runner.evaluator import observe
from metrics import feature_sampling
from metrics.feature_sampling import Features, in_double, logit_changes
from metrics.peaks import peaks
from tests.support.device_work import CLASSES, TRAINED, fitted, split
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


@pytest.mark.usefixtures("deterministic")  # of all metrics on all networks, like their fits
@pytest.mark.parametrize("name", [*TRAINED, "ours"])
@torch.no_grad()
def test_a_metric_takes_at_most_twice_a_pass_of_its_batch_and_the_budget(name, monkeypatch):
    budget, images = 2**22, split(32, size=64)
    kinds = {metric: registry.load("metrics", metric) for metric in registry.names("metrics")}
    for module in list(sys.modules.values()):
        if module.__name__.startswith("metrics.") and hasattr(module, "_BUDGET"):
            monkeypatch.setitem(module._BUDGET, "cuda", budget)
    box = Classifier(SmallNet(), CLASSES).eval().to(CUDA)
    model = fitted(name)
    gc.collect()  # what other tests have left is no memory of this one that becomes free
    with PeakMemory(CUDA) as peak:
        (batch,) = images.batches(32, CUDA)
        seen = observe(model, images, batch, box, fit_seconds=1.0)
        seen.lasting = {}
        assert seen.own.maps.numel()
    allowed, taken = 2 * (peak.growth + budget), {}
    for metric, kind in kinds.items():
        settings = kind.Config(**dict(registry.entry("metrics", metric).preset))
        with PeakMemory(CUDA) as peak, contextlib.suppress(NotApplicable):
            measured = kind(settings, images, model.prototypes)
            measured.prepare(images)
            measured.update(seen)
            measured.compute()
        taken[metric] = peak.growth
    assert {metric: growth for metric, growth in taken.items() if growth > allowed} == {}
