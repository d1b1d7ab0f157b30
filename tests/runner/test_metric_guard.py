"""Metrics that change what others see: each is named, and no number of its cell counts."""

import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.contract import CellError, Metric, Score
from bench.core import registry
from bench.diagnostics import synthetic
from bench.diagnostics.synthetic import RandomPrototypes
from bench.runner.evaluator import evaluate
from tests.support.samples import Silent


@pytest.fixture(autouse=True)
def own_catalogue(monkeypatch):
    monkeypatch.setattr(registry, "CATALOGUE", {kind: dict(names) for kind, names in registry.CATALOGUE.items()})


def plugin(name, update=lambda self, seen: None, value=lambda self: 1.0, prepare=lambda self, train: None):
    facts = {"name": name, "version": "1", "unit": "", "update": update, "prepare": prepare}
    kind = type(name, (Metric,), {**facts, "compute": lambda self: Score(value(self), 1), "__module__": __name__})
    setattr(sys.modules[__name__], name, kind)
    registry.register("metrics", name, kind)


def scores(*names, model=None):
    samples = synthetic.stripes(size=64)
    model = model or RandomPrototypes(samples.classes).eval()
    wanted = {name: {"parameters": {}} for name in names}
    with torch.random.fork_rng(devices=[]):
        black_box = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64 * 64, 3)).eval()
    found, _ = evaluate(
        model, wanted, synthetic.stripes(size=64, seed=1), samples, "test", 16, torch.device("cpu"), Silent(), black_box
    )
    return {name: score.value for name, score in found.items()}


def through_numpy(seen):
    seen.images.numpy()[:] = seen.images.numpy()[:, :, ::-1].copy()


def leave_a_mode(mode):
    mode.__enter__()


WRITES = {
    "images": (lambda self, seen: seen.images.zero_(), "the images of its batch"),
    "images, unseen by torch": (lambda self, seen: seen.images.data.zero_(), "the images of its batch"),
    "images, mirrored through numpy": (lambda self, seen: through_numpy(seen), "the images of its batch"),
    "images need gradients": (lambda self, seen: seen.images.requires_grad_(), "the images of its batch"),
    "labels": (lambda self, seen: seen.labels.add_(1), "the labels of its batch"),
    "boxes": (lambda self, seen: seen.boxes.fill_(1), "the boxes of its batch"),
    "features": (lambda self, seen: seen.features.mul_(2), "the shared 'features'"),
    "maps": (lambda self, seen: seen.own.maps.data.neg_(), "the shared 'own'"),
    "split": (lambda self, seen: self.samples.keypoints.add_(1), "keypoints of the test split"),
    "split, another tensor": (lambda self, seen: setattr(self.samples, "labels", 1 - seen.labels), "labels of the"),
    "prototypes": (lambda self, seen: self.prototypes.classes.logical_not_(), "classes of the model's prototypes"),
    "weights": (lambda self, seen: next(seen.model.parameters()).data.zero_(), "weight of the model's backbone"),
    "another weight": (lambda self, seen: setattr(seen.model.backbone.body[0], "bias", None), "the parts of the model"),
    "frozen": (lambda self, seen: seen.model.requires_grad_(False), "of the model's"),
    "mode": (lambda self, seen: seen.model.train(), "the mode of the model"),
    "statistics": (
        lambda self, seen: seen.model.train()(seen.images) + 0 * seen.model.eval()(seen.images),
        "num_batches_tracked of the model",
    ),
    "head": (lambda self, seen: setattr(seen.model, "head", lambda *_: None), "the code of the model"),
    "hook": (lambda self, seen: seen.model.backbone.register_forward_hook(print), "hooks of the model's backbone"),
    "black box": (lambda self, seen: seen.black_box[1].weight.data.zero_(), "weight of the black box's 1"),
    "dtype": (lambda self, seen: torch.set_default_dtype(torch.float64), "torch's default dtype"),
    "deterministic": (lambda self, seen: torch.use_deterministic_algorithms(True), "algorithms are deterministic"),
    "gradients": (lambda self, seen: torch.set_grad_enabled(True), "whether gradients are kept"),
    "threads": (lambda self, seen: torch.set_num_threads(torch.get_num_threads() + 1), "the number of threads"),
    "cudnn": (lambda self, seen: setattr(torch.backends.cudnn, "benchmark", True), "cuDNN's flags"),
    "folder": (lambda self, seen: os.chdir(os.sep), "the working directory"),
}


@pytest.mark.parametrize("what", WRITES)
def test_what_a_metric_changes_is_told_with_its_name(what):
    update, message = WRITES[what]
    plugin("spoils", update)
    flags = torch.get_default_dtype(), torch.get_num_threads(), torch.backends.cudnn.benchmark, Path.cwd()
    with pytest.raises(CellError, match=f"^spoils changes .*{message}"):
        scores("spoils", "accuracy")
    assert flags == (torch.get_default_dtype(), torch.get_num_threads(), torch.backends.cudnn.benchmark, Path.cwd())


def test_what_it_does_before_and_after_the_batches_counts_too():
    plugin("early", prepare=lambda self, train: train.labels.zero_())
    with pytest.raises(CellError, match=r"^early changes labels of the training split"):
        scores("early")
    plugin(
        "late",
        update=lambda self, seen: setattr(self, "model", seen.model),
        value=lambda self: self.model.train() and 1,
    )
    with pytest.raises(CellError, match=r"^late changes the mode of the model"):
        scores("late")


def test_a_model_that_writes_into_its_images_is_found():
    class Writing(RandomPrototypes):
        def head(self, features, classes=None):
            return super().head(features.mul_(2), classes)

    with pytest.raises(CellError, match=r"the shared 'features' of its batch.*or do so in the model"):
        scores("accuracy", "contrastivity", model=Writing(3).eval())


def test_what_is_set_on_an_observation_is_seen_by_nobody_else():
    def update(self, seen):
        seen.once("own_hits", lambda: 1)
        seen.once("features", lambda: 1)
        seen.labels = seen.images = None

    plugin("aside", update)
    alone = scores("accuracy", "contrastivity")
    assert {**scores("aside", "accuracy", "contrastivity"), "aside": None} == {**alone, "aside": None}


def test_plugin_draws_do_not_depend_on_other_metrics():
    draws = lambda self, seen: setattr(  # noqa: E731
        self,
        "sum",
        getattr(self, "sum", 0) + torch.rand(1).item() + np.random.rand() + random.random(),  # noqa: NPY002
    )
    plugin("one", draws, lambda self: self.sum)
    plugin("two", draws, lambda self: self.sum)
    before = torch.get_rng_state(), random.getstate()
    both = scores("two", "one")
    assert both["one"] != both["two"]
    assert scores("one") == {"one": both["one"]}
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_what_a_plugin_may_do_is_not_taken_for_a_change():
    def update(self, seen):
        copy = seen.images.clone().zero_()
        with torch.enable_grad():
            seen.model(copy.requires_grad_()).sum().backward()
        seen.once("mine", lambda: [copy]).append(seen.own.maps.max())
        self.kept = SimpleNamespace(images=seen.images)

    plugin("careful", update)
    model = RandomPrototypes(3).eval()
    assert scores("careful", "accuracy", model=model)["careful"] == 1.0
    assert all(parameter.grad is None for parameter in model.parameters())
