"""A black box whose head comes with its weights: nothing is trained, and it is what the file says."""

import csv
import json
import re

import pytest
import torch

from bench.config.black_box import BlackBoxConfig
from bench.config.plan import black_box_config
from bench.config.schema import dataset_config
from bench.core import registry
from bench.data.cache import prepare
from bench.data.cub import Cub
from bench.data.preprocessing import Preprocessing
from bench.models.classifier import Classifier
from tests.support.samples import Silent
from tests.support.small_birds import QUICK, called, few_birds

PRETRAINED = ("--set", "classifier.head=pretrained")


def classifier(classes=3):
    torch.manual_seed(0)
    return Classifier(registry.load("backbones", "tiny")(), classes).eval()


def written(file, net, **more):
    """A weight file as networks come: the backbone's names as they are, and a head behind it."""
    head = {f"fc.{name}": tensor for name, tensor in net.head.state_dict().items()}
    torch.save({**net.backbone.state_dict(), **head, **more}, file)
    return file


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    return few_birds(folder), folder


def run(place, file, *more, methods="ours"):
    root, folder = place
    given = ("--methods", methods, "--data-root", str(root), "--weights", f"tiny={file}", "--no-tracking", *QUICK[:6])
    return called(folder / "home", "run", *given, *more)


def test_pretrained_head_is_decomposed_without_training(place):
    file = written(place[1] / "whole.pth", classifier())
    assert "black boxes to train" not in run(place, file, *PRETRAINED, "--dry-run").stdout
    ran = run(place, file, *PRETRAINED, "--no-controls", "--jobs", "2", methods="ours,blackbox")
    assert ran.returncode == 0, ran.stderr
    assert not (place[1] / "home" / "blackboxes").exists()
    rows = json.loads(called(place[1] / "home", "results").stdout)
    found = {
        row["method"]: row for row in rows if row["metric"] == "accuracy" and row["method"] in ("ours", "blackbox")
    }
    assert found["ours"]["value"] == found["blackbox"]["value"]
    shown = called(place[1] / "home", "show", found["ours"]["cell"]).stdout
    assert "classifier.head" in shown
    assert "classifier.schedule" not in shown
    with torch.no_grad():
        expected = classifier()(prepared(place)).argmax(1).tolist()
    assert predictions(place, found["blackbox"]["cell"]) == expected


def predictions(place, cell):
    file = place[1] / "home" / "cells" / cell / "result" / "items" / "accuracy.image.csv"
    return [int(row["prediction"]) for row in csv.DictReader(file.open())]


def prepared(place):
    test = prepare(Cub(place[0]), Preprocessing(), place[1] / "home", Silent())["test"]
    return torch.cat([batch.images for batch in test.batches(64)])


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("bare", r"no linear head of 3 classes on \d+ averaged channels \(behind its backbone: nothing\)"),
        ("five", r"\(behind its backbone: fc.weight \(5, \d+\)\)"),
        ("deep", r"\(behind its backbone: fc.weight \(3, \d+\), head.0.weight \(8, 8\)\)"),
    ],
)
def test_weights_without_a_head_are_refused_first(place, file, problem, tmp_path):
    net, path = classifier(5 if file == "five" else 3), tmp_path / "w.pth"
    if file == "bare":
        torch.save(net.backbone.state_dict(), path)
    else:
        written(path, net, **({"head.0.weight": torch.ones(8, 8)} if file == "deep" else {}))
    ran = run(place, path, *PRETRAINED)
    assert ran.returncode == 2
    assert re.search(problem, " ".join(ran.stderr.split())), ran.stderr
    assert "--set classifier.head=trained" in " ".join(ran.stderr.split())


def test_paper_decomposes_the_weights_own_head_on_imagenet_only():
    for dataset, head in (("imagenet", "pretrained"), ("cub", "trained"), ("cars", "trained")):
        own = dataset_config(dataset, {}).recipes.get("published", {})
        assert black_box_config("resnet34", "published", own).head == head


def test_what_nothing_depends_on_is_no_part_of_the_identity():
    trained = black_box_config("resnet34", "published", {})
    assert set(trained.model_dump()) == {"schedule"}
    given = black_box_config("resnet34", "published", {"classifier.head": "pretrained"})
    assert given.model_dump() == {"head": "pretrained"}
    assert BlackBoxConfig.model_validate(given.model_dump()).head == "pretrained"
    with pytest.raises(ValueError, match="a head that is trained needs a schedule"):
        BlackBoxConfig()
