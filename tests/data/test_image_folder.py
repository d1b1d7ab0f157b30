import shutil

import numpy as np
import pytest
from scipy.io import savemat

from bench.contract import RequestError
from bench.data.image_folder import ImageFolder
from bench.data.imagenet import ImageNet
from tests.support.cub_trees import picture


def make(root, *, splits=True, count=5):
    for split in ("train", "test") if splits else ("",):
        for number in range(2 * count):
            picture(root / split / f"kind {number % 2}" / f"{number}.png", seed=number)
    return root


def ids(folder):
    return {split: [record.id for record in folder.split(split)] for split in ("train", "test")}


def test_train_and_test_folders(tmp_path):
    root = make(tmp_path)
    (root / "train/kind 0/notes.txt").write_text("no image")
    (root / "train/.hidden").mkdir()
    picture(root / "train/.hidden/x.png")
    found = ImageFolder(root)
    assert found.classes == ["kind 0", "kind 1"]
    assert found.provides == {"image", "label"}
    assert ids(found)["train"][:2] == ["train/kind 0/0.png", "train/kind 0/2.png"]
    assert [record.label for record in found.split("test")] == [0] * 5 + [1] * 5
    assert all(record.path.is_file() for record in found.split("test"))


def test_one_folder_is_divided_by_class(tmp_path):
    root = make(tmp_path, splits=False, count=10)
    found = ids(ImageFolder(root))
    assert len(found["test"]) == 6
    assert sum("kind 0" in name for name in found["test"]) == 3
    assert set(found["train"]) | set(found["test"]) == {f"kind {n % 2}/{n}.png" for n in range(20)}
    assert not set(found["train"]) & set(found["test"])
    assert ids(ImageFolder(root)) == found
    assert ids(ImageFolder(root, seed=1)) != found
    assert len(ids(ImageFolder(root, test_share=0.5))["test"]) == 10
    digests = {ImageFolder(root, **options).digest for options in ({}, {"seed": 1}, {"test_share": 0.31})}
    assert len(digests) == 3  # another division is another data set


def test_the_division_does_not_depend_on_the_place(tmp_path):
    root = make(tmp_path / "a", splits=False)
    other = shutil.copytree(root, tmp_path / "b")
    assert ids(ImageFolder(root)) == ids(ImageFolder(other))
    assert ImageFolder(root).digest == ImageFolder(other).digest


def test_boxes_and_key_points_from_a_table(tmp_path):
    root = make(tmp_path, count=1)
    lines = ["image,x,y,width,height,head.x,head.y,tail.x,tail.y"]
    lines += [f"{split}/kind {kind}/{kind}.png,1,2,30,20.5,5,6,," for split in ("train", "test") for kind in (0, 1)]
    (root / "annotations.csv").write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")
    found = ImageFolder(root)
    assert found.provides == {"image", "label", "bbox", "keypoints"}
    assert list(found.parts) == ["head", "tail"]
    (record, _) = found.split("train")
    assert record.box == (1, 2, 30, 20.5)
    assert record.keypoints == ((5, 6, True), (0, 0, False))
    before = found.digest
    (root / "annotations.csv").write_text("\n".join(lines).replace("20.5", "20"))
    assert ImageFolder(root).digest != before


TABLES = {
    "an image without a line": ("image,x,y,width,height\n", "annotations.csv: has no line for train/kind 0/0.png"),
    "half a box": ("image,x,y\n", "annotations.csv:1: column 'height' is missing, unknown"),
    "half a point": ("image,head.x\n", "column 'head.y' is missing"),
    "unknown": ("image,head.x,head.y,weight\n", "column 'weight'"),
    "nothing": ("", "column 'image' is missing"),
    "no number": ("image,head.x,head.y\ntrain/kind 0/0.png,3,b\n", "annotations.csv:2: head.y 'b' is not a finite"),
    "short": ("image,head.x,head.y\ntrain/kind 0/0.png,3\n", "annotations.csv:2: 3 fields belong here"),
    "long": ("image,head.x,head.y\ntrain/kind 0/0.png,3,4,5\n", "annotations.csv:2: 3 fields belong here"),
    "twice": (
        "image,head.x,head.y\n" + "train/kind 0/0.png,3,4\n" * 2,
        "csv:3: .* already named on line 2",
    ),
    "flat": ("image,x,y,width,height\ntrain/kind 0/0.png,3,4,0,5\n", "annotations.csv:2: the box .* holds no pixel"),
}


@pytest.mark.parametrize("name", TABLES)
def test_faults_of_the_table_name_the_line(tmp_path, name):
    text, message = TABLES[name]
    (make(tmp_path, count=1) / "annotations.csv").write_text(text)
    with pytest.raises(RequestError, match=message) as caught:
        ImageFolder(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_a_data_set(tmp_path):
    with pytest.raises(RequestError, match="has no class folders with images: expected DIR/train"):
        ImageFolder(tmp_path)
    make(tmp_path, count=1)
    shutil.rmtree(tmp_path / "test/kind 1")
    with pytest.raises(RequestError, match="class 'kind 1' has train images and no test image"):
        ImageFolder(tmp_path)
    with pytest.raises(RequestError, match="one image; a class needs at least two"):
        ImageFolder(tmp_path / "train")
    with pytest.raises(RequestError, match="test_share is 1"):
        ImageFolder(tmp_path, test_share=1)


def test_it_is_recognised_where_it_can_be_read(tmp_path):
    assert not ImageFolder.recognises(tmp_path / "nowhere")
    assert not ImageFolder.recognises(tmp_path)
    make(tmp_path / "divided")
    assert ImageFolder.recognises(tmp_path / "divided")
    assert ImageFolder.recognises(tmp_path / "divided/train")
    # Its class folders lie two levels down.
    assert not ImageFolder.recognises(tmp_path)
    shutil.rmtree(tmp_path / "divided/test/kind 1")
    assert not ImageFolder.recognises(tmp_path / "divided")


def imagenet(root, flat):
    wnids = ["n01443537", "n01440764"]  # the devkit's numbers are not in the order of the names
    for index, wnid in enumerate(wnids):
        picture(root / "train" / wnid / f"{wnid}_1.JPEG", seed=index)
    for number in range(4):
        name = f"ILSVRC2012_val_{number + 1:08d}.JPEG"
        picture(root / "val" / ("" if flat else wnids[number % 2]) / name, seed=10 + number)
    devkit = root / "ILSVRC2012_devkit_t12/data"
    devkit.mkdir(parents=True)
    synsets = np.array(list(enumerate(wnids, 1)), dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    savemat(devkit / "meta.mat", {"synsets": synsets[:, None]})
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n1\n2\n")
    return root


def test_imagenet_with_folders_or_devkit(tmp_path):
    found = [ImageNet(imagenet(tmp_path / str(flat), flat)) for flat in (True, False)]
    for dataset in found:
        assert dataset.classes == ["n01440764", "n01443537"]
        assert [record.id for record in dataset.split("train")] == [
            f"train/{name}/{name}_1.JPEG" for name in dataset.classes
        ]
        labels = {record.path.stem[-1]: record.label for record in dataset.split("test")}
        assert labels == {"1": 1, "2": 0, "3": 1, "4": 0}


def test_faults_of_imagenet(tmp_path):
    root = imagenet(tmp_path, True)
    truth = root / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n2\n1\n")
    with pytest.raises(RequestError, match="3 lines for the 4 images"):
        ImageNet(root)
    truth.write_text("1\n2\n1\n7\n")
    with pytest.raises(RequestError, match=r"ground_truth.txt:4: class '7' is not in meta.mat"):
        ImageNet(root)
    truth.unlink()
    with pytest.raises(RequestError, match=r"has no class folders, and .*missing; unpack the devkit"):
        ImageNet(root)
    shutil.rmtree(root / "val")
    with pytest.raises(RequestError, match="val: cannot be read"):
        ImageNet(root)


def test_imagenet_refuses_folders_that_are_no_wordnet_ids(tmp_path):
    root = imagenet(tmp_path, False)
    for split in ("train", "val"):
        (root / split / "n01443537").rename(root / split / "goldfish")
    with pytest.raises(RequestError, match=r"1 of 2 class folders are none .*'goldfish'; name them like n01440764, or"):
        ImageNet(root)


BOX = "<object><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox></object>"


@pytest.mark.parametrize("kaggle", [False, True])
def test_imagenet_reads_boxes_of_the_official_xml(tmp_path, kaggle):
    root = imagenet(tmp_path / "Data/CLS-LOC" if kaggle else tmp_path, False)
    assert "bbox" not in ImageNet(root).provides
    boxes = tmp_path / "Annotations/CLS-LOC"
    (boxes / "val").mkdir(parents=True)
    (boxes / "train/n01440764").mkdir(parents=True)
    (boxes / "train/n01440764/n01440764_1.xml").write_text(f"<annotation>{BOX.format(1, 5)}</annotation>")
    for number in range(1, 4):
        text = f"<annotation>{BOX.format(1, 5)}{BOX.format(3, 8)}</annotation>"
        (boxes / f"val/ILSVRC2012_val_{number:08d}.xml").write_text(text)
    with pytest.raises(RequestError, match=r"val_00000004\.xml: is not on disk"):
        ImageNet(root)
    (boxes / "val/ILSVRC2012_val_00000004.xml").write_text(text)
    dataset = ImageNet(root)
    assert "bbox" in dataset.provides
    assert [record.box for record in dataset.split("train")] == [(1, 2, 4, 7), None]
    assert {record.box for record in dataset.split("test")} == {(1, 2, 7, 7)}  # around both objects
