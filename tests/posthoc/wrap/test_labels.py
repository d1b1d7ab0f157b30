"""Labels by another order of the classes are refused with the order that fits, and its advice works."""

import json

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image

from bench.cli.main import main
from bench.contract import RequestError
from bench.posthoc import decompose
from bench.posthoc.wrap.class_order import arranged, rows, spelled
from bench.posthoc.wrap.labels import WrongLabels
from tests.support.classifiers import QUICK, loader, net
from tests.support.samples import Silent

NATURAL = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"]


def test_orders_are_those_of_the_libraries(tmp_path):
    from timm.data.readers.reader_image_folder import find_images_and_targets
    from torchvision.datasets import ImageFolder

    names = ["10", "9", "Bengal", "beagle", "boxer", "a2", "a10", "Z"]
    for name in names:
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "x.png")
    number = find_images_and_targets(str(tmp_path))[1]
    assert arranged(names, "timm") == sorted(number, key=number.get)
    assert arranged(names, "torchvision") == ImageFolder(tmp_path).classes


@pytest.mark.parametrize("names", [["cat", "Cat"], ["1", "01"], ["²", "a"]])
def test_names_that_timm_numbers_by_chance(names):
    with pytest.raises(RequestError, match="--class-order FILE"):
        arranged(names, "timm")


def test_names_with_accents_are_spelled_as_the_folders():
    assert spelled(["Zoë", "other"], ["Zoë"]) == ["Zoë", "other"]
    assert list(rows(["a", "b"])) == ["from 1", "from 0"]


def knowing(labels, x, classes):
    """A classifier that gives these labels: its last layer is solved for them."""
    classifier = net(channels=64, classes=classes)
    with torch.no_grad():
        features = classifier[:-1](x).double()
        ones = torch.nn.functional.one_hot(labels, classes).double() * 10
        solved = torch.linalg.lstsq(torch.cat([features, torch.ones(len(x), 1)], 1), ones, driver="gelsd").solution
        classifier[-1].weight.copy_(solved[:-1].T)
        classifier[-1].bias.copy_(solved[-1])
    return classifier


@pytest.fixture
def known():
    """Images of twelve colours, their numbers in natural order, and a classifier that knows them."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(12, 3, generator=generator) * 4 - 2
    labels = torch.arange(12).repeat_interleave(4)
    x = colours[labels][:, :, None, None] + 0.02 * torch.randn(48, 3, 18, 18, generator=generator)
    return x, labels, knowing(labels, x, 12)


def test_the_right_labels_are_said_and_kept(known):
    x, labels, classifier = known
    progress = Silent()
    model = decompose(classifier, loader(x, labels), 2, config=QUICK, class_names=NATURAL, progress=progress)
    assert model.facts["accuracy"] == 100
    assert any("accuracy of the classifier on the given labels: 100.0 % of 48 images" in n for n in progress.notes)


def test_labels_in_another_librarys_order_are_refused(known):
    x, labels, classifier = known
    ours = sorted(NATURAL)
    given = torch.tensor([ours.index(NATURAL[label]) for label in labels])
    with pytest.raises(WrongLabels, match=r"8.3 % of 48 images, but of 100.0 % .* as timm numbers") as caught:
        decompose(classifier, loader(x, given), 2, config=QUICK, class_names=ours)
    assert caught.value.order == tuple(NATURAL)
    progress = Silent()
    model = decompose(
        classifier, loader(x, given), 2, config=QUICK, class_names=ours, check_labels=False, progress=progress
    )
    assert model.facts["accuracy"] == pytest.approx(100 / 12)
    assert any(note.startswith("WARNING: the classifier gives the labels of 8.3 %") for note in progress.notes)


SHIFTS = {1: "1 is taken from every label: give label - 1", -1: "1 is added to every label: give label"}


@pytest.mark.parametrize(("change", "way"), SHIFTS.items())
def test_labels_that_count_from_another_number(known, change, way):
    x, labels, _ = known
    inside = (labels + change >= 0) & (labels + change < 12)
    classifier = knowing(labels[inside], x[inside], 12)
    with pytest.raises(WrongLabels, match=way):
        decompose(classifier, loader(x[inside], labels[inside] + change), 2, config=QUICK, missing="keep")
    with pytest.raises(RequestError, match="if labels count from 1, give label - 1"):
        decompose(classifier, loader(x, labels + 1), 2, config=QUICK)


def test_an_order_that_no_library_has(known):
    x, labels, classifier = known
    mixed = torch.tensor([5, 0, 7, 2, 9, 4, 11, 6, 1, 8, 3, 10])
    with pytest.raises(
        WrongLabels, match=r"100\.0 % if its rows are numbered as its answers on the images suggest"
    ) as caught:
        decompose(classifier, loader(x, mixed[labels]), 2, config=QUICK)
    assert caught.value.order == tuple(str(int(label)) for label in mixed)


def test_answers_by_chance_are_refused_where_images_are_many():
    x = torch.randn(200, 3, 18, 18, generator=torch.Generator().manual_seed(0))
    with pytest.raises(WrongLabels, match=r"which is chance \(20.0 %\), in any order"):
        decompose(net(), loader(x, torch.arange(200) % 5, 50), 2, config=QUICK)


@pytest.fixture
def folder(tmp_path):
    """Colours in numbered folders, and weights whose rows are in any given order of the names."""
    from timm.data import create_transform, resolve_data_config

    generator = np.random.default_rng(0)
    names, pictures = NATURAL[:12], []
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        colour = generator.integers(30, 226, 3)
        for j in range(4):
            pixels = colour + generator.integers(-5, 6, (64, 64, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{j}.png")
            pictures.append((tmp_path / "data" / name / f"{j}.png", name))
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=12).eval()
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    x = torch.stack([transform(Image.open(file)) for file, _ in pictures])
    with torch.no_grad():
        features = model.forward_features(x).mean((2, 3)).double()

    def weights(order):
        labels = torch.tensor([order.index(name) for _, name in pictures])
        ones = torch.nn.functional.one_hot(labels, 12).double() * 10
        solved = torch.linalg.lstsq(torch.cat([features, torch.ones(48, 1)], 1), ones, driver="gelsd").solution
        model.fc.weight.data, model.fc.bias.data = solved[:-1].T.float().contiguous(), solved[-1].float()
        torch.save({"state_dict": model.state_dict(), "arch": "resnet10t"}, tmp_path / "w.pth.tar")
        arguments = ["decompose", "--model", "timm:resnet10t", "--weights", str(tmp_path / "w.pth.tar"), "--k", "2"]
        arguments += ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--draw", "0"]
        return [*arguments, "--device", "cpu", "--set", "refinement=naive"]

    return weights


def test_the_command_says_which_order_and_takes_it(folder, tmp_path):
    called = folder(NATURAL)
    refused = CliRunner().invoke(main, called)
    assert refused.exit_code == 2
    assert "pass --class-order timm" in refused.stderr
    result = CliRunner().invoke(main, [*called, "--class-order", "timm"])
    assert result.exit_code == 0, result.output
    kept = json.loads((tmp_path / "out/prototypes.json").read_text())
    assert kept["class_names"] == NATURAL
    assert kept["facts"]["accuracy"] == 100
    both = CliRunner().invoke(main, [*called, "--class-order", "timm", "--classes", "x.txt"])
    assert "give one of them" in both.stderr


def test_an_order_of_ones_own_is_written_down_and_taken(folder, tmp_path):
    order = [*NATURAL[5:], *NATURAL[:5]]
    called = folder(order)
    refused = CliRunner().invoke(main, called)
    assert refused.exit_code == 2
    file = tmp_path / "out" / "class_order.txt"
    assert f"pass --class-order {file}" in refused.stderr.replace("\n", "")
    assert file.read_text().split() == order
    assert CliRunner().invoke(main, [*called, "--class-order", str(file)]).exit_code == 0
    assert CliRunner().invoke(main, [*called, "--any-accuracy"]).exit_code == 0
    missing = CliRunner().invoke(main, [*called, "--class-order", "tim"])
    assert "write timm, torchvision or a FILE" in missing.stderr
