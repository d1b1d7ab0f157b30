"""Controls that know no class: what they keep of the black box, and that they know nothing."""

import pytest
import torch

from bench.config.schedule import Phase, Schedule
from bench.core import registry
from bench.core.seeding import derive
from bench.models.classifier import Classifier
from bench.posthoc.uninformed import ridge
from bench.training.black_box import ClassifierLearner
from bench.training.trainer import Trainer
from tests.support.samples import Silent, SmallNet, stripes, task

KINDS = ("untrained", "random_head", "shuffled_labels")


@pytest.fixture(scope="module")
def black_box(tmp_path_factory):
    """A classifier that knows the stripes."""
    torch.manual_seed(0)
    classifier = Classifier(SmallNet(), 3)
    phase = Phase(name="one", epochs=25, lr={"backbone": 0.01, "head": 0.01})
    folder = tmp_path_factory.mktemp("box")
    Trainer(folder, torch.device("cpu"), "fp32", 0, Silent()).fit(
        ClassifierLearner(classifier), Schedule(phases=[phase], batch_size=12), stripes()
    )
    return classifier.eval()


def fitted(kind, black_box, folder, **rest):
    method, preset = registry.load("methods", kind), dict(registry.entry("methods", kind).preset)
    work = task(folder, stripes(), method.Config(k=2, **preset), black_box=black_box, **rest)
    return method().fit(work)


def accuracy(model):
    with torch.no_grad():
        return float((model(stripes(seed=1).images).argmax(1) == stripes().labels).float().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_of_the_shape_of_ours_and_repeats(kind, black_box, tmp_path):
    before = {name: value.clone() for name, value in black_box.state_dict().items()}
    model, again = fitted(kind, black_box, tmp_path / "a"), fitted(kind, black_box, tmp_path / "b")
    assert model.prototypes.classes.shape == (6, 3)
    for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    other = fitted(kind, black_box, tmp_path / "c", seed=1)
    assert not torch.equal(model.rows, other.rows)
    assert all(torch.equal(value, before[name]) for name, value in black_box.state_dict().items())


def test_they_keep_the_features_they_say(black_box, tmp_path):
    images = stripes().images[:4]
    for kind in KINDS:
        model = fitted(kind, black_box, tmp_path / kind)
        same = torch.equal(model.backbone(images), black_box.backbone(images))
        assert same == (kind != "untrained")
    weights = fitted("random_head", black_box, tmp_path / "head").rows
    torch.testing.assert_close(weights.flatten().sort().values, black_box.head.weight.data.flatten().sort().values)


def test_shuffled_labels_are_not_known(black_box, tmp_path):
    assert accuracy(black_box) > 0.9
    # Averaged over seeds: of three classes one shuffle alone may agree by luck.
    found = [accuracy(fitted("shuffled_labels", black_box, tmp_path / str(seed), seed=seed)) for seed in range(8)]
    assert sum(found) / len(found) == pytest.approx(1 / 3, abs=0.15)


def test_a_head_fitted_to_the_true_labels_knows_them(black_box):
    weight, bias = ridge(black_box.backbone, stripes(), stripes().labels, torch.device("cpu"))
    pooled = black_box.backbone(stripes().images).mean((2, 3)).detach()
    assert float(((pooled @ weight.T + bias).argmax(1) == stripes().labels).float().mean()) > 0.9
    # Least squares: without a penalty the residuals are at right angles to the features; with this small one, nearly.
    hot = torch.nn.functional.one_hot(stripes().labels, 3).float()
    assert float((hot - pooled @ weight.T - bias).mean(0).abs().max()) < 1e-4


def test_they_run_only_when_asked_for():
    from bench.config.request_names import with_controls

    assert not {*KINDS} & {*with_controls(["ours"], controls=True)}
    assert registry.entry("methods", "untrained").role == "control"
    assert derive(0, "untrained") != derive(0, "random head")
