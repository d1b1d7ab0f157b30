"""Every network on a CUDA device: whole fits, resumed ones, and steps that let nobody wait; the fit of every method."""

import pytest
import torch

from bench.core import registry
from bench.diagnostics import synthetic
from bench.diagnostics.conformance import methods
from bench.training.trainer import Trainer
from tests.support.device_work import TRAINED, pretended, projection_batch, training_step
from tests.support.networks import NETWORKS
from tests.support.samples import Dying, Killed, Silent, stripes, task

pytestmark = pytest.mark.gpu
ALL = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
CUDA = torch.device("cuda:0")
COUNTED = pytest.mark.skipif(not pretended(), reason="waits are counted by the pretended device alone")


def work_of(network, folder, *phases, precision="fp32", trainer=Trainer):
    work = task(folder, stripes(), network.config(*phases))
    work.device = CUDA
    work.trainer = trainer(folder, CUDA, precision, 0, work.progress)
    return work


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@ALL
def test_a_whole_fit_is_deterministic(network, precision, tmp_path):
    work = work_of(network, tmp_path, network.joint(2, "project"), *network.last(), precision=precision)
    model = network.method().fit(work)
    assert {parameter.device for parameter in model.parameters()} == {CUDA}
    assert {buffer.device for buffer in model.buffers()} == {CUDA}
    assert work.facts["projected"] == 1
    with torch.no_grad():
        assert model(stripes().images.to(CUDA)).isfinite().all()


@pytest.mark.usefixtures("deterministic")
def test_a_fit_with_a_mask_is_deterministic(tmp_path):
    network = TRAINED["protoconcepts"]
    model = network.method().fit(work_of(network, tmp_path, network.joint(2, "mask"), *network.last(1)))
    assert {value.device for value in model.state_dict().values()} == {CUDA}


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", sorted(registry.names("methods")))
def test_every_method_fits_and_explains_there(name, tmp_path, monkeypatch):
    def on_device(*inputs, black_box=None, make=synthetic.task):
        return make(*inputs, black_box=None if black_box is None else black_box.to(CUDA), device=CUDA)

    monkeypatch.setattr(synthetic, "task", on_device)
    fitted = methods.prepare(name, tmp_path)
    images, labels = (values.to(CUDA) for values in (fitted.samples.images, fitted.samples.labels))
    with torch.no_grad():
        found = fitted.model.explain(images, labels)
        shown = fitted.model.attribute(fitted.model.backbone(images), labels)
    for values in (found.logits, found.maps, found.scores, found.indices, shown):
        assert values.device == CUDA
        assert values.isfinite().all()


@ALL
def test_killed_training_ends_like_whole(network, tmp_path):
    phases = network.joint(2, "project"), *network.last(1)
    whole = network.method().fit(work_of(network, tmp_path / "whole", *phases)).state_dict()
    work = work_of(network, tmp_path / "killed", *phases, trainer=Dying)
    work.trainer.lives = sum(phase.epochs + 1 for phase in network.opening) + 2
    with pytest.raises(Killed):
        network.method().fit(work)
    torch.manual_seed(99)
    work.trainer = Trainer(tmp_path / "killed", CUDA, "fp32", 0, Silent())
    resumed = network.method().fit(work).state_dict()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@COUNTED
@pytest.mark.parametrize("name", TRAINED)
def test_a_training_step_waits_for_nothing(name):
    assert training_step(name)["waits"] == 0


@COUNTED
@pytest.mark.parametrize("name", NETWORKS)
def test_a_projection_waits_for_nothing(name):
    # PixPNet's pairs of prototypes and images are passed one after the other, on the host.
    assert projection_batch(name)["waits"] == (5 if name == "pixpnet" else 0)


class Watching(Trainer):
    """Notes the switches of precision in every step and in the action after it."""

    def stepper(self, learner, phase):
        seen = self.__dict__.setdefault("seen", [])
        learner.register_forward_pre_hook(lambda *_: seen.append(switches()))
        return super().stepper(learner, phase)


def switches():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.usefixtures("deterministic")
def test_tf32_is_the_precision_of_steps_alone(tmp_path):
    network = NETWORKS["protopnet"]
    work = work_of(network, tmp_path, network.joint(1), precision="tf32", trainer=Watching)
    network.method().fit(work)
    assert set(work.trainer.seen) == {(True, True)}
    assert switches() == (False, False)
