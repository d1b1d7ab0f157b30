"""Planted faults are found and named; what is whole has none."""

import shutil

import numpy as np
import pytest
from PIL import Image

from bench.data.base import PublishedCounts
from bench.data.cars import Cars
from bench.data.cub import Cub
from bench.data.dogs import Dogs
from bench.data.image_folder import ImageFolder
from bench.data.reader_reports import Faults
from bench.data.verify import verify
from tests.support.cub_trees import Quiet, car_table, edit, make_cars, make_dogs, make_tree, picture, real


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
    monkeypatch.setattr(Cub, "official", PublishedCounts(classes=2, train=8, test=5))
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


def gathered(kind, root, **more):
    """Kind and place of all that is told, structure and images alike."""
    faults = Faults(collecting=True)
    report = verify(kind(root, faults=faults, **more), Quiet(), faults)
    assert report.refused
    return [(anomaly.kind, anomaly.where.removeprefix(f"{root}/")) for anomaly in report.anomalies]


def test_all_faults_of_birds_at_once(birds, tmp_path):
    (birds / "images/001.Auk/bird_2.png").unlink()
    (birds / "images/002.Wren/bird_1.png").unlink()
    broken = birds / "images/001.Auk/bird_4.png"
    broken.write_bytes(broken.read_bytes()[:200])
    shutil.copy(birds / "images/002.Wren/bird_5.png", birds / "images/002.Wren/bird_3.png")
    edit(birds / "bounding_boxes.txt", 1, "10 3 4 five 5")
    edit(birds / "bounding_boxes.txt", 2, "20 3 4")
    edit(birds / "parts/part_locs.txt", 107, "80 2 9999 3 1")
    edit(birds / "parts/part_locs.txt", 108, "80 3 1 3 7")
    (tmp_path / "segmentations/001.Auk/bird_6.png").unlink()
    found = gathered(Cub, birds)
    for expected in {
        ("bounding_boxes.txt", "bounding_boxes.txt:1"), ("bounding_boxes.txt", "bounding_boxes.txt:2"),
        ("part_locs.txt", "parts/part_locs.txt:108"), ("missing", "images.txt:2"), ("missing", "images.txt:3"),
        ("missing", "images.txt:7"), ("image", "001.Auk/bird_4.png"), ("leak", "002.Wren/bird_3.png"),
        ("keypoint", "002.Wren/bird_7.png"),
    }:  # fmt: skip
        assert expected in found
    # What follows from another fault is not told again.
    assert ("part_locs.txt", "parts/part_locs.txt") not in found


@pytest.mark.parametrize("file", ["classes.txt", "train_test_split.txt", "bounding_boxes.txt", "parts/part_locs.txt"])
def test_images_are_looked_at_though_a_file_is_missing(birds, file):
    (birds / "images/001.Auk/bird_4.png").write_bytes(b"")
    (birds / file).unlink()
    found = gathered(Cub, birds)
    assert ("missing", file) in found
    assert ("image", "001.Auk/bird_4.png") in found


def test_all_faults_of_cars_at_once(tmp_path):
    root = make_cars(tmp_path)
    rows = [
        ("00001.png", 9, 1, 1, 5, 5),
        ("00002.png", 1, 5, 5, 1, 1),
        ("9.png", 1, 1, 1, 5, 5),
        ("00003.png", 1, 1, 1, 5, 5),
    ]
    car_table(root / "devkit/cars_train_annos.mat", rows)
    (root / "cars_train/00003.png").write_bytes(b"")
    (root / "cars_test_annos_withlabels.mat").unlink()
    found = gathered(Cars, root)
    assert {place for kind, place in found if kind == "cars_train_annos.mat"} == {
        "devkit/cars_train_annos.mat:entry 1", "devkit/cars_train_annos.mat:entry 2"
    }  # fmt: skip
    assert ("missing", "devkit/cars_train_annos.mat:entry 3") in found
    assert ("missing", "cars_test_annos_withlabels.mat") in found
    assert ("image", "cars_train/00003.png") in found


def test_all_faults_of_dogs_at_once(tmp_path):
    root = make_dogs(tmp_path)
    (root / "Annotation/n1-Chow/train_0").write_text("<no xml")
    (root / "Annotation/n2-Pug/train_1").unlink()
    (root / "Images/n1-Chow/train_1.jpg").unlink()
    (root / "Images/n2-Pug/test_0.jpg").write_bytes(b"")
    found = gathered(Dogs, root)
    assert [kind for kind, _ in found].count("annotation") == 2
    assert ("missing", "train_list.mat:entry 2") in found
    assert ("image", "n2-Pug/test_0.jpg") in found


def test_all_faults_of_folders_at_once(tmp_path):
    for place in ("train/a/1", "train/a/2", "train/b/1", "test/a/3", "test/c/1"):
        picture(tmp_path / f"{place}.png", seed=sum(map(ord, place)))
    (tmp_path / "train/a/2.png").write_bytes(b"")
    found = gathered(ImageFolder, tmp_path)
    assert [kind for kind, _ in found] == ["class", "class", "image"]
    picture(tmp_path / "d/e/1.png")
    picture(tmp_path / "d/f/1.png", seed=1)
    picture(tmp_path / "d/f/2.png", seed=2)
    (tmp_path / "d/f/2.png").write_bytes(b"")
    assert [kind for kind, _ in gathered(ImageFolder, tmp_path / "d")] == ["class", "image"]
