import numpy as np
import pytest
from scipy.io import savemat

from bench.contract import RequestError
from bench.data.cars import Cars
from tests.support.cub_trees import car_table, make_cars, real


@pytest.fixture
def root(tmp_path):
    return make_cars(tmp_path / "cars")


def test_reads_what_is_written(root, tmp_path):
    cars = Cars(root, tmp_path / "cache")
    assert cars.provides == {"image", "label", "bbox"}
    assert cars.classes == ["Maker Model 0", "Maker Model 1"]
    assert list(cars.parts) == []
    train, test = cars.split("train"), cars.split("test")
    assert len(train) == len(test) == 6
    assert [record.label for record in test] == [0, 1, 0, 1, 0, 1]
    assert train[0].id == "cars_train/00001.png"  # both splits count their files from 1
    assert test[0].id == "cars_test/00001.png"
    assert test[0].path.is_file()
    # From 1, the last pixel included: columns 5 to 44, rows 3 to 35.
    assert train[0].box == (5, 3, 40, 33)
    assert train[0].keypoints == ()


def test_the_annotations_with_labels_may_lie_in_the_devkit(root):
    before = Cars(root).split("test")
    (root / "cars_test_annos_withlabels.mat").rename(root / "devkit" / "cars_test_annos_withlabels.mat")
    assert Cars(root).split("test") == before


def test_one_image_is_a_table_too(root):
    car_table(root / "devkit/cars_train_annos.mat", [("00002.png", 2, 1, 1, 50, 40)])
    (record,) = Cars(root).split("train")
    assert (record.label, record.box) == (1, (0, 0, 50, 40))


GOOD = ("00001.png", 1, 6, 4, 45, 36)
FAULTS = {
    "label 0": ([("00001.png", 0, 6, 4, 45, 36)], "entry 1: class 0 is not a whole number from 1 to 2"),
    "label above": ([GOOD, ("00002.png", 3, 6, 4, 45, 36)], "entry 2: class 3 is not a whole number from 1 to 2"),
    "label half": ([("00001.png", 1.5, 6, 4, 45, 36)], "class 1.5 is not"),
    "label word": ([("00001.png", "one", 6, 4, 45, 36)], "class 'one' is not"),
    "twice": ([GOOD, GOOD], "entry 2: '00001.png' was already named on entry 1"),
    "elsewhere": ([("../x.png", 1, 6, 4, 45, 36)], "leaves the images folder"),
    "missing": ([GOOD, ("9.png", 1, 6, 4, 45, 36), ("8.png", 1, 6, 4, 45, 36)], r"9.png is not on disk \(nor 1 more"),
    "no area": ([("00001.png", 1, 45, 4, 6, 36)], "holds no pixel"),
    "no number": ([("00001.png", 1, "a", 4, 6, 36)], "is not four numbers"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_one_line_with_place_and_cure(root, name):
    rows, message = FAULTS[name]
    car_table(root / "cars_test_annos_withlabels.mat", rows)
    with pytest.raises(RequestError, match=message) as caught:
        Cars(root)
    assert "cars_test_annos_withlabels.mat" in str(caught.value)
    assert "unpack the official archive again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_broken_and_unlabelled_files(root):
    file = root / "cars_test_annos_withlabels.mat"
    car_table(file, [("00001.png", 6, 4, 45, 36)], ("fname", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"))
    with pytest.raises(RequestError, match="annotations has no field 'class'"):
        Cars(root)
    savemat(file, {"other": np.arange(3)})
    with pytest.raises(RequestError, match="has no variable 'annotations'"):
        Cars(root)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RequestError, match="cannot be read as a MATLAB file"):
        Cars(root)
    file.unlink()
    with pytest.raises(RequestError, match=r"withlabels[.]mat is missing; the folder passed"):
        Cars(root)


def test_real_subset():
    cars = Cars(real("cars10"))
    assert (len(cars.classes), len(cars.split("train")), len(cars.split("test"))) == (10, 277, 141)
    assert {record.label for record in cars.split("test")} == set(range(10))
    assert cars.classes[9] == "Suzuki Aerio Sedan 2007"
    from PIL import Image

    for record in cars.split("train")[:5]:
        with Image.open(record.path) as image:
            assert record.box == (0, 0, *image.size)
