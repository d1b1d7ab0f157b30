"""What finished classes are remembered with: a resumed decomposition has cost what all its attempts have."""

import json

import pytest
import torch

from bench.models.classifier import Classifier
from bench.posthoc.checkpoint import Checkpoint
from bench.posthoc.method import PostHocPPN
from tests.support.samples import SmallNet, stripes, task

TENSORS = {"vectors": torch.ones(2, 3)}


def test_seconds_of_the_classes_that_were_found_are_added_and_are_none_of_their_numbers(tmp_path):
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
    """Decompose a black box of three classes, where it was left: the model's vectors, and the task."""
    torch.manual_seed(0)
    box = Classifier(SmallNet(), 3).eval()

    def fit():
        given = task(tmp_path, stripes(), PostHocPPN.Config(), black_box=box)
        return PostHocPPN().fit(given).vectors, given

    return fit


def test_a_resumed_fit_has_taken_what_its_finished_classes_took_too(fitted, tmp_path):
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


def test_classes_that_were_kept_without_their_seconds_are_gone_on_with(fitted, tmp_path):
    _, first = fitted()
    for file in (tmp_path / "classes").glob("class-*.json"):
        numbers = json.loads(file.read_text())
        del numbers["seconds"]
        file.write_text(json.dumps(numbers))
    _, second = fitted()
    assert second.trainer.earlier_seconds == 0
    assert second.facts == first.facts
