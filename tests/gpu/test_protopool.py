"""ProtoPool on a CUDA device: the numbers of the CPU, and a whole fit."""

import pytest
import torch

from baselines.protopool import ProtoPool, ProtoPoolModel
from bench.config.schedule import Phase, Schedule
from bench.training.trainer import Trainer
from tests.support.samples import SmallNet, stripes, task

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("noise_seed", [None, 3])
def test_the_same_explanation(noise_seed):
    torch.manual_seed(0)
    model = ProtoPoolModel(SmallNet(), classes=3, prototypes=9, slots=2, depth=5, noise_seed=noise_seed).eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 2, 1, 0])
    with torch.no_grad():
        here = model.explain(images, labels)
        model.cuda().assign()
        there = model.explain(images.cuda(), labels.cuda())
    assert torch.equal(there.indices.cpu(), here.indices)
    for name in ("logits", "maps", "scores"):
        torch.testing.assert_close(getattr(there, name).cpu(), getattr(here, name), rtol=1e-3, atol=1e-3)


def test_a_whole_fit(tmp_path):
    rates = {"backbone": 0.01, "add_on": 0.01, "presence": 0.01, "prototypes": 0.01}
    phases = [
        Phase(name="joint", epochs=2, lr=rates, action="project"),
        Phase(name="last", epochs=1, lr={"last_layer": 0.01}),
    ]
    config = ProtoPool.Config(prototypes=12, slots=2, depth=8, gumbel_epochs=1, schedule=Schedule(phases=phases))
    work = task(tmp_path, stripes(), config)
    work.device = torch.device("cuda:0")
    work.trainer = Trainer(tmp_path, work.device, "fp32", 0, work.progress)
    model = ProtoPool().fit(work)
    assert model.slots.is_cuda
    assert work.facts["projected"] == 1
