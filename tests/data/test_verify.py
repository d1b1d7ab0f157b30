"""Planted faults are found and named; what is whole has none."""

import shutil

import numpy as np
import pytest
from data.trees import Quiet, car_table, edit, make_cars, make_dogs, make_tree, real
from PIL import Image

from bench.data.cars import Cars
from bench.data.cub import Cub
from bench.data.dogs import Dogs
from bench.data.tree import Figures
from bench.data.verify import verify


@pytest.fixture
def birds(tmp_path):
    (tmp_path / "birds").mkdir()
    return make_tree(tmp_path / "birds", 12, masks=tmp_path / "segmentations")


def found(dataset):
    return [(anomaly.kind, anomaly.where, anomaly.what) for anomaly in verify(dataset, Quiet()).anomalies]


def test_nothing_is_wrong(birds, tmp_path):
    for dataset in (Cub(birds), Cars(make_cars(tmp_path / "cars")), Dogs(make_dogs(tmp_path / "dogs"))):
        assert found(dataset) == []
    report = verify(Cub(birds), Quiet())
    assert report.images == {"train": 8, "test": 4}
    assert report.compared == "the tree's own lists (2 of 200 classes: a subset)"


def test_dark_16_bit_image_is_a_warning(birds):
    file = birds / "images/001.Auk/bird_4.png"
    with Image.open(file) as image:
        grey = np.asarray(image.convert("L")).astype(np.uint16)
    for bits, expected in ((12, ["001.Auk/bird_4.png"]), (14, ["001.Auk/bird_4.png"]), (16, [])):
        Image.fromarray(grey << (bits - 8) | 255 >> (16 - bits)).save(file)
        report = verify(Cub(birds), Quiet())
        assert [(warning.kind, warning.where) for warning in report.warnings] == [("range", name) for name in expected]
        assert report.anomalies == []
    Image.fromarray((grey >> 4).astype(np.uint8)).save(file)  # 8 bits, and dark: as it was taken
    assert verify(Cub(birds), Quiet()).warnings == []


def test_a_broken_image(birds):
    file = birds / "images/001.Auk/bird_4.png"
    file.write_bytes(file.read_bytes()[:200])
    ((kind, where, what),) = found(Cub(birds))
    assert (kind, where) == ("image", "001.Auk/bird_4.png")
    assert "cannot be decoded" in what


def test_a_leak_between_the_splits(birds):
    shutil.copy(birds / "images/001.Auk/bird_4.png", birds / "images/001.Auk/bird_0.png")  # 0 is a test image
    kinds = found(Cub(birds))
    assert ("leak", "001.Auk/bird_0.png", "the same file is 001.Auk/bird_4.png of the train split") in kinds
    # Copies within one split are the authors' own affair.
    shutil.copy(birds / "images/001.Auk/bird_4.png", birds / "images/001.Auk/bird_2.png")
    assert [where for kind, where, _ in found(Cub(birds)) if kind == "leak"] == ["001.Auk/bird_0.png"]


def test_boxes_and_key_points_outside(birds):
    with Image.open(birds / "images/001.Auk/bird_0.png") as image:
        width, height = image.size
    edit(birds / "bounding_boxes.txt", 1, f"10 3 4 {width} 5")
    edit(birds / "parts/part_locs.txt", 2, f"10 2 {width + 1} 3 1")
    edit(birds / "parts/part_locs.txt", 3, f"10 3 {width} {height} 1")
    edit(birds / "parts/part_locs.txt", 4, "10 4 -50 3 0")  # not visible: wherever
    assert [(kind, where) for kind, where, _ in found(Cub(birds))] == [
        ("box", "001.Auk/bird_0.png"),
        ("keypoint", "001.Auk/bird_0.png"),
    ]
    edit(birds / "bounding_boxes.txt", 1, "10 3 4 0 5")
    assert ("box", "001.Auk/bird_0.png", "0 by 5 pixels") in found(Cub(birds))


def test_masks_of_another_size(birds, tmp_path):
    Image.new("L", (5, 6)).save(tmp_path / "segmentations/001.Auk/bird_2.png")
    (tmp_path / "segmentations/002.Wren/bird_1.png").write_bytes(b"no image")
    kinds = {(kind, where) for kind, where, _ in found(Cub(birds))}
    assert kinds == {("mask", "001.Auk/bird_2.png"), ("mask", "002.Wren/bird_1.png")}


def test_a_class_without_test_images(tmp_path):
    root = make_cars(tmp_path)
    car_table(root / "cars_test_annos_withlabels.mat", [("00001.png", 1, 1, 1, 50, 40)])
    assert found(Cars(root)) == [("class", "Maker Model 1", "has no test image")]


def test_counts_of_the_whole_data_set(birds, monkeypatch):
    monkeypatch.setattr(Cub, "official", Figures(classes=2, train=8, test=5))
    report = verify(Cub(birds), Quiet())
    assert report.compared == "the official figures"
    assert [(a.kind, a.where, a.what) for a in report.anomalies] == [("count", "test", "4 images, officially 5")]


def test_an_image_that_cannot_be_read(birds):
    dataset = Cub(birds)
    (birds / "images/001.Auk/bird_6.png").unlink()
    assert [(kind, where) for kind, where, _ in found(dataset)] == [("image", "001.Auk/bird_6.png")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [(Cub, "cub3_full"), (Cars, "cars10"), (Dogs, "dogs10")])
def test_real_subsets_are_whole(kind, name):
    assert found(kind(real(name))) == []
