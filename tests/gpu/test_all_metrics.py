"""Every metric and every control on a CUDA device: the numbers of the CPU, without waits."""

import pytest
import torch

from bench.core import registry
from bench.diagnostics.synthetic import RandomPrototypes, SmallNet, task
from bench.models.classifier import Classifier
from bench.runner.evaluator import evaluate
from tests.support.device_work import CLASSES, TRAINED, evaluation_batch, pretended, split
from tests.support.samples import Silent

pytestmark = pytest.mark.gpu
DEVICES = ("cpu", "cuda:0")
METRICS = sorted(registry.names("metrics"))
CONTROLS = ("constant", "center", "random", "random_fixed")
# Times are not repeated; predictions of an untrained network on noise may tie, so that attacks go other ways.
LOOSE = {"misalignment": 20.0}


def measured(model, metrics, device):
    """Scores on the device, and the reasons of those that do not apply."""
    torch.manual_seed(0)
    box = Classifier(SmallNet(), CLASSES).eval().to(device)
    wanted = {name: {"parameters": dict(registry.entry("metrics", name).preset)} for name in metrics}
    images = split(16)
    place = torch.device(device)
    return evaluate(model.to(place), wanted, images, images, "test", 8, place, Silent(), box, fit_seconds=1.0)


@pytest.fixture(scope="module")
def scores():
    return {device: measured(RandomPrototypes(CLASSES).eval(), METRICS, device) for device in DEVICES}


def agree(here, there, loose=0.0):
    assert there.n == here.n
    assert there.value == pytest.approx(here.value, rel=1e-3, abs=max(loose, 1e-6))
    assert there.also == pytest.approx(here.also, rel=1e-3, abs=max(loose, 1e-6))
    assert {name: list(table) for name, table in there.items.items()} == {
        name: list(table) for name, table in here.items.items()
    }


@pytest.mark.parametrize("metric", METRICS)
def test_metric_has_the_cpus_number(metric, scores):
    (here, _), (there, refused) = (scores[device] for device in DEVICES)
    assert metric in here, "the model is one to which every metric applies"
    assert not refused
    if metric == "cost":
        assert there[metric].value > 0
    else:
        agree(here[metric], there[metric], LOOSE.get(metric, 0.0))


@pytest.mark.parametrize("name", CONTROLS)
def test_control_has_the_cpus_numbers(name, tmp_path):
    entry = registry.entry("methods", name)
    found = {}
    for device in DEVICES:
        method = registry.load("methods", name)
        work = task(tmp_path, split(16), method.Config(**dict(entry.preset)), Silent(), device=torch.device(device))
        model = method().fit(work)
        found[device] = measured(model, ("consistency", "stability", "consistency_controlled", "pointing_box"), device)
    for metric, score in found["cpu"][0].items():
        agree(score, found["cuda:0"][0][metric])


@pytest.mark.skipif(not pretended(), reason="waits are counted by the pretended device alone")
@pytest.mark.parametrize("name", [*TRAINED, "ours"])
def test_a_batch_waits_once_for_all_metrics_of_every_run_and_the_axioms(name):
    metrics = ("accuracy", "consistency", "stability", "sensitivity", "completeness", "linearity")
    assert evaluation_batch(name, *metrics)["waits"] <= 1


@pytest.mark.skipif(not pretended(), reason="waits are counted by the pretended device alone")
@pytest.mark.parametrize("metric", [name for name in METRICS if name not in ("cost", "fidelity", "misalignment")])
def test_a_batch_waits_at_most_once(metric):
    assert evaluation_batch("ours", metric)["waits"] <= 1


@pytest.mark.skipif(not pretended(), reason="what a GPU does with a broken map is what this device does")
def test_a_broken_map_is_named_at_the_end():
    model = RandomPrototypes(CLASSES).eval()
    model.prototypes.vectors[2] = torch.nan
    with pytest.raises(Exception, match=r"of test image|presence maps hold NaN"):
        measured(model, ("consistency", "stability"), "cuda:0")
