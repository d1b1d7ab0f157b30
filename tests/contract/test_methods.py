"""Every registered method keeps the contract: fitted on a few easy images, seen through all its doors."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import SmallNet, stripes, task

from bench import registry
from bench.backbones.classifier import Classifier
from bench.config import CONFIGS, from_recipe
from bench.contract import NotApplicable, PartPrototypeModel
from metrics.features import in_double

METHODS = sorted(registry.names("methods"))


def quick(name):
    """The method's demo settings with one epoch for each phase."""
    method = registry.load("methods", name)
    preset = {f"{name}.{key}": value for key, value in registry.entry("methods", name).preset}
    config = from_recipe(CONFIGS / "methods" / f"{name}.yaml", method.Config, "demo", preset, name)
    if "schedule" in method.Config.model_fields:
        phases = [phase.model_copy(update={"epochs": min(phase.epochs, 1)}) for phase in config.schedule.phases]
        config = config.model_copy(update={"schedule": config.schedule.model_copy(update={"phases": tuple(phases)})})
    return method, config


@pytest.fixture(params=METHODS)
def fitted(request, tmp_path):
    method, config = quick(request.param)
    samples = stripes(size=64)
    samples.keypoints[:] = torch.tensor([[10.0, 20.0], [50.0, 40.0]], dtype=torch.float64)
    samples.visible[:] = True
    torch.manual_seed(0)
    box = Classifier(SmallNet(), samples.classes).eval() if method.needs_black_box else None
    work = task(tmp_path, samples, config, black_box=box)
    return method, work, method().fit(work), samples


def test_name_and_shapes(fitted):
    method, _, model, samples = fitted
    assert isinstance(model, PartPrototypeModel)
    assert not model.training
    count = len(model.prototypes)
    assert model.prototypes.classes.shape == (count, samples.classes)
    assert model.prototypes.classes.any(0).all(), "some class has no prototype"
    if method.class_specific:
        assert (model.prototypes.classes.sum(1) == 1).all()
    with torch.no_grad():
        explanation = model.explain(samples.images[:5])
    assert explanation.logits.shape == (5, samples.classes)
    assert explanation.maps.shape[:2] == (5, count)
    assert explanation.scores.shape == (5, count)
    assert torch.isfinite(explanation.maps).all()


def test_the_doors_agree(fitted):
    _, _, model, samples = fitted
    images, labels = samples.images[10:16], samples.labels[10:16]
    with torch.no_grad():
        everything, own = model.explain(images), model.explain(images, labels)
        torch.testing.assert_close(model(images), everything.logits)
        torch.testing.assert_close(own.logits, everything.logits)
        attribution = model.attribute(model.backbone(images), labels)
    assert torch.equal(own.indices, model.prototypes.of(labels))
    assert attribution.shape[0] == 6
    assert attribution.ndim == 3
    for n in range(6):
        for position, row in enumerate(own.indices[n].tolist()):
            if row >= 0:
                torch.testing.assert_close(own.maps[n, position], everything.maps[n, row], rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(own.scores[n, position], everything.scores[n, row], rtol=1e-4, atol=1e-5)


def test_what_it_says_for_the_axioms_is_true(fitted):
    """Contributions and offset sum to the logit, where it has them; a combination of logits is attributed as one."""
    _, _, model, samples = fitted
    images, labels = samples.images[10:16], samples.labels[10:16]
    with torch.no_grad():
        features = model.backbone(images)
        logits = model.logits(features)
        offset = model.offset(labels)
        assert offset.shape == labels.shape
        double = in_double(model).logits(features.double())
        # The log similarity of a distance near 0 shows rounding as 1e-2: that is why axioms are measured in double.
        torch.testing.assert_close(double.to(logits.dtype), logits, rtol=2e-2, atol=1e-1)
        if type(model).contributions is PartPrototypeModel.contributions:
            with pytest.raises(NotApplicable, match="no sums of contributions"):
                model.contributions(features, labels)
        else:
            contributions = model.contributions(features, labels)
            total = contributions.sum((1, 2)) + offset
            torch.testing.assert_close(total, logits.gather(1, labels[:, None])[:, 0], rtol=1e-3, atol=1e-3)
        if model.mixes:
            weights = torch.nn.functional.one_hot(labels, samples.classes).to(features.dtype)
            one, two = model.attribute(features, labels), model.attribute(features, weights)
            torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)
    assert isinstance(model.apart, str)


def test_an_image_does_not_depend_on_its_batch(fitted):
    _, _, model, samples = fitted
    with torch.no_grad():
        together = model.explain(samples.images[:8], samples.labels[:8])
        alone = model.explain(samples.images[3:4], samples.labels[3:4])
    # A prototype projected onto this very image is at distance 0, where the log similarity has slope 1e4: rounding
    # of the distance (1e-7) shows there as 1e-3.
    torch.testing.assert_close(alone.maps[0], together.maps[3], rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(alone.logits[0], together.logits[3], rtol=1e-3, atol=1e-2)


def test_it_survives_being_saved(fitted, tmp_path):
    method, work, model, samples = fitted
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "m.safetensors")
    other = method().build(work)
    other.load_state_dict(load_file(tmp_path / "m.safetensors"))
    with torch.no_grad():
        one, two = model.explain(samples.images[:4]), other.eval().explain(samples.images[:4])
    assert torch.equal(one.maps, two.maps)
    assert torch.equal(one.logits, two.logits)


def test_the_same_seed_fits_the_same_model(fitted, tmp_path):
    method, work, model, samples = fitted
    box = work.black_box
    again = method().fit(task(tmp_path / "again", samples, work.config, black_box=box))
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_explaining_changes_nothing(fitted):
    _, _, model, samples = fitted
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        one, two = (model.explain(samples.images[:4], samples.labels[:4]).maps for _ in range(2))
    assert torch.equal(one, two)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_padded_rows_of_a_table_with_ragged_classes():
    from bench.contract import PrototypeTable

    table = PrototypeTable(torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]]))
    assert table.of(torch.tensor([1, 0, 2])).tolist() == [[1, 2, 3], [0, 2, -1], [-1, -1, -1]]
