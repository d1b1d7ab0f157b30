"""Plugins that break one part of the contract each, and the line that says so."""

import sys
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from baselines.protopnet import ProtoPNet
from bench.config.schedule import Schedule
from bench.contract import Metric, RequestError, Score
from bench.core import registry
from bench.diagnostics.conformance import check, methods
from bench.diagnostics.conformance.outcome import Broken
from bench.posthoc.method import PostHocPPN
from metrics.controls import Center


@pytest.fixture(autouse=True)
def own_catalogue(monkeypatch):
    monkeypatch.setattr(registry, "CATALOGUE", {kind: dict(names) for kind, names in registry.CATALOGUE.items()})


def problems(kind, plugin):
    # The registry finds a class by the name it has in its module.
    plugin.__qualname__ = plugin.__name__
    setattr(sys.modules[plugin.__module__], plugin.__name__, plugin)
    registry.register(kind, plugin.name, plugin)
    return {outcome.check: outcome.problem for outcome in check(plugin.name) if outcome.problem is not None}


def method(spoil, **facts):
    class Plugin(Center):
        name = "plugin"

        def build(self, task):
            model = Center().build(task)
            head = model.head

            def spoilt(features, classes=None):
                found = head(features, classes)
                return type(found)(found.logits, spoil(found.maps.clone()), found.scores, found.indices)

            model.head = spoilt
            return model

    for name, value in facts.items():
        setattr(Plugin, name, value)
    return Plugin


def test_what_is_sound_has_no_problems():
    assert problems("methods", method(lambda maps: maps)) == {}


@pytest.mark.parametrize(
    ("spoil", "title", "message"),
    [
        (lambda maps: maps / 0, "nothing is NaN or infinite", "maps are not all finite"),
        (lambda maps: maps[:, :, 0], "shapes", "maps of 5 images are (5, 3, 224)"),
        (lambda maps: maps + len(maps), "an image does not depend on its batch", "differ by up to 7"),
        (lambda maps: maps + maps.shape[1], "all calls give the same", "differ by up to 2"),
        (lambda maps: maps + torch.rand(()), "explaining changes nothing", "differently the second time"),
    ],
)
def test_a_spoilt_explanation_is_found(spoil, title, message):
    found = problems("methods", method(spoil))
    assert message in found[title]


def test_a_border_that_leaves_no_map_is_found():
    def fit(self, task):
        model = Center().build(task)
        model.border = 112
        return model

    assert "border is 112" in problems("methods", method(lambda maps: maps, fit=fit))["shapes"]


def test_a_method_that_cannot_be_fitted_gets_one_line():
    def broken(self, task):
        raise ValueError("no such\nthing")

    found = problems("methods", method(lambda maps: maps, fit=broken))
    assert list(found.values()) == ["ValueError: no such thing"]


def test_draws_without_a_seed_are_found():
    def fit(self, task):
        model = Center().build(task)
        model.register_buffer("drawn", torch.rand(3))
        return model

    found = problems("methods", method(lambda maps: maps, fit=fit))
    assert "these differ: drawn" in found["the same seed fits the same model"]
    assert "Unexpected key" in found["saved and loaded, it is the same"]


def test_a_trained_method_without_a_learner_is_found():
    class Scheduled(Center):
        name = "scheduled"

        class Config(Center.Config):
            schedule: Schedule = Schedule(phases=())

    found = problems("methods", Scheduled)
    assert "`learner(model, task)` returns nothing" in found["its training steps can be measured"]


class Level(Metric):
    """The mean of what was seen, which a subclass may spoil."""

    name, version, unit = "level", "1", ""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = []

    def update(self, seen):
        self.seen.append(seen.images.mean((1, 2, 3)))

    def compute(self):
        return Score(float(torch.cat(self.seen).mean()), 36)


class PerBatch(Level):
    name = "per_batch"

    def compute(self):
        return Score(float(len(self.seen)), 36)


class Undefined(Level):
    name = "undefined"

    def compute(self):
        return Score(float("nan"), 36)


class Ragged(Level):
    name = "ragged"

    def compute(self):
        return Score(1.0, 36, {"image": {"index": [0, 1], "value": [1.0]}})


@pytest.mark.parametrize(
    ("metric", "title", "message"),
    [
        (PerBatch, "batches and their order do not matter", "1 in one batch, 8 in small batches"),
        (Undefined, "a finite score, tables in order", "undefined is nan"),
        (Ragged, "a finite score, tables in order", "columns of different lengths"),
    ],
)
def test_a_spoilt_metric_is_found(metric, title, message):
    assert message in problems("metrics", metric)[title]
    assert problems("metrics", Level) == {}


def test_unknown_needs_are_found():
    class Needy(Level):
        name, needs = "needy", frozenset({"image", "smell"})

    assert "needs ['smell']" in next(iter(problems("metrics", Needy).values()))


def test_published_forms_that_compute_something_else_are_found(tmp_path):
    class Formed(ProtoPNet):
        published_forms: ClassVar = {"same": {"l1": 1e-4}, "other": {"cluster": 5.0}}

    fitted = replace(methods.prepare("protopnet", tmp_path), method=Formed)
    with pytest.raises(Broken, match="in the form 'other' differ"):
        methods.published_forms_are_equal(fitted)


def test_a_name_that_is_not_there():
    with pytest.raises(RequestError, match="no method or metric 'protopnett'; did you mean 'protopnet'"):
        list(check("protopnett"))


def test_a_method_that_decomposes_is_sound():
    class Again(PostHocPPN):
        name = "again"

    assert problems("methods", Again) == {}
