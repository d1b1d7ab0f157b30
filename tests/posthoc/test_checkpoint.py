"""Checkpoint of finished classes: a resumed decomposition counts the time of all its attempts."""

import json

import pytest
import torch

from bench.models.classifier import Classifier
from bench.posthoc.checkpoint import Checkpoint
from bench.posthoc.method import PostHocPPN
from tests.support.samples import SmallNet, stripes, task

TENSORS = {"vectors": torch.ones(2, 3)}


def test_seconds_of_read_classes_are_added(tmp_path):
    first = Checkpoint(tmp_path, "key")
    first.write(0, TENSORS, {"error": 1.0}, 20.0)
    first.write(1, TENSORS, {"error": 2.0}, 3.0)
    assert first.earlier_seconds == 0
    again = Checkpoint(tmp_path, "key")
    again.read(0)
    assert again.read(2) is None
    assert again.earlier_seconds == 20
    again.read(1)
    assert again.earlier_seconds == 23
    assert again.means() == first.means() == {"error": 1.5}


@pytest.fixture
def fitted(tmp_path):
    """Return a function that decomposes a black box of three classes and resumes: vectors of the model, task."""
    torch.manual_seed(0)
    box = Classifier(SmallNet(), 3).eval()

    def fit():
        given = task(tmp_path, stripes(), PostHocPPN.Config(), black_box=box)
        return PostHocPPN().fit(given).vectors, given

    return fit


def test_resumed_fit_counts_earlier_seconds(fitted, tmp_path):
    whole, first = fitted()
    assert first.trainer.earlier_seconds == 0
    for label, seconds in enumerate((1000.0, 200.0, 30.0)):
        file = tmp_path / "classes" / f"class-{label:05d}.json"
        assert json.loads(file.read_text())["seconds"] >= 0
        file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": seconds}))
    (tmp_path / "classes" / "class-00001.safetensors").unlink()  # it was not finished when the process was killed
    again, second = fitted()
    assert second.trainer.earlier_seconds == 1030
    assert second.facts == first.facts
    assert torch.equal(again, whole)


def test_classes_without_seconds_are_resumed(fitted, tmp_path):
    _, first = fitted()
    for file in (tmp_path / "classes").glob("class-*.json"):
        numbers = json.loads(file.read_text())
        del numbers["seconds"]
        file.write_text(json.dumps(numbers))
    _, second = fitted()
    assert second.trainer.earlier_seconds == 0
    assert second.facts == first.facts
