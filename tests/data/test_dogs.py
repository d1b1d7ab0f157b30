import numpy as np
import pytest
from scipy.io import savemat

from bench.contract import RequestError
from bench.data.dogs import Dogs
from tests.support.cub_trees import cell_array, make_dogs, real


@pytest.mark.parametrize("lists", ["", "lists"])
def test_reads_what_is_written(tmp_path, lists):
    dogs = Dogs(make_dogs(tmp_path, lists=lists))
    assert dogs.provides == {"image", "label", "bbox"}
    assert dogs.classes == ["n1-Chow", "n2-Pug"]
    assert (len(dogs.split("train")), len(dogs.split("test"))) == (6, 4)
    first, last = dogs.split("train")[0], dogs.split("test")[-1]
    assert (first.id, first.label, first.box) == ("n1-Chow/train_0.jpg", 0, (3, 2, 27, 18))
    assert (last.label, last.box) == (1, (3, 1, 37, 32))  # around both dogs
    assert last.path.is_file()


def test_without_annotations_there_are_no_boxes(tmp_path):
    dogs = Dogs(make_dogs(tmp_path, boxes=False))
    assert dogs.provides == {"image", "label"}
    assert dogs.split("train")[0].box is None


def test_the_digest_holds_the_annotations(tmp_path):
    root = make_dogs(tmp_path)
    before = Dogs(root).digest
    file = root / "Annotation/n1-Chow/train_0"
    file.write_text(file.read_text().replace("<xmin>3<", "<xmin>4<"))
    assert Dogs(root).digest != before


def lists(root, names, labels):
    savemat(root / "test_list.mat", {"file_list": cell_array(names), "labels": np.array(labels)[:, None]})


FAULTS = {
    "label 0": (["n1-Chow/test_0.jpg"], [0], "test_list.mat:entry 1: class 0 is not a whole number"),
    "two breeds": (
        ["n1-Chow/test_0.jpg", "n2-Pug/test_0.jpg"],
        [1, 1],
        "is 'n2-Pug' here and 'n1-Chow' before",
    ),
    "twice": (["n1-Chow/test_0.jpg"] * 2, [1, 1], "was already named on entry 1"),
    "missing": (["n1-Chow/test_9.jpg"], [1], "entry 1: .*test_9.jpg is not on disk"),
    "a gap": (["n1-Chow/test_0.jpg", "n4-Shi/test_0.jpg"], [1, 4], "not on disk"),
    "uneven": (["n1-Chow/test_0.jpg"], [1, 2], "1 names and 2 labels"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_one_line_with_place(tmp_path, name):
    root = make_dogs(tmp_path)
    names, labels, message = FAULTS[name]
    lists(root, names, labels)
    with pytest.raises(RequestError, match=message) as caught:
        Dogs(root)
    assert "\n" not in str(caught.value)


def test_a_class_without_images(tmp_path):
    root = make_dogs(tmp_path)
    (root / "Images/n2-Pug").rename(root / "Images/n5-Pug")
    for split, count in (("train", 3), ("test", 2)):
        names = [f"{breed}/{split}_{i}.jpg" for breed in ("n1-Chow", "n5-Pug") for i in range(count)]
        labels = np.repeat([1, 5], count)[:, None]
        savemat(root / f"{split}_list.mat", {"file_list": cell_array(names), "labels": labels})
    with pytest.raises(RequestError, match="class 2 has no image in either list"):
        Dogs(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "cannot be read as an annotation"),
        ("<annotation></annotation>", "has no box"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "it declares entities"),
        ("<a><bndbox><xmin>1</xmin></bndbox></a>", "cannot be read as an annotation"),
        ("<a><bndbox><xmin>5</xmin><ymin>1</ymin><xmax>5</xmax><ymax>9</ymax></bndbox></a>", "holds no pixel"),
        (None, "is not on disk"),
    ],
)
def test_broken_annotations_are_named(tmp_path, text, message):
    file = make_dogs(tmp_path) / "Annotation/n2-Pug/train_1"
    file.unlink()
    if text is not None:
        file.write_text(text)
    with pytest.raises(RequestError, match=message) as caught:
        Dogs(tmp_path)
    assert str(file) in str(caught.value)


def test_real_subset():
    dogs = Dogs(real("dogs10"))
    assert (len(dogs.classes), len(dogs.split("train")), len(dogs.split("test"))) == (10, 400, 200)
    assert dogs.provides == {"image", "label"}
    assert np.bincount([record.label for record in dogs.split("test")]).tolist() == [20] * 10
