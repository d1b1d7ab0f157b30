"""One rule for image folders, in the data set `folder` and in `decompose`."""

import os
import unicodedata
from zlib import crc32

import pytest
from PIL import Image

from bench.contract import RequestError
from bench.data.class_folders import read
from bench.data.image_folder import ImageFolder
from bench.data.torch_dataset import ClassImages
from tests.support.cub_trees import picture


def fill(root, *places):
    """Images ``a/b*4``: four in a/b (default 3); a name that ends in ! is a text file, one that ends in / a folder."""
    for place in places:
        name, _, count = place.partition("*")
        if name.endswith("!"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name[:-1]).write_text("no image")
        elif name.endswith("/"):
            (root / name).mkdir(parents=True)
        else:
            for number in range(int(count or 3)):
                picture(root / name / f"{number}.png", seed=crc32(f"{name} {number}".encode()))
    return root


def counts(root):
    """Images of ``decompose``, and of each split of ``folder``."""
    dataset = ImageFolder(root)
    return len(ClassImages(root, None).files), len(dataset.split("train")), len(dataset.split("test"))


def left_out(root):
    """Reasons and counts; the same for both."""
    found = {reason: entry["files"] for reason, entry in ImageFolder(root).left_out.items()}
    assert {reason: entry["files"] for reason, entry in ClassImages(root, None).left_out.items()} == found
    return found


UNDIVIDED = ["cat", "dog"]
DIVIDED = ["train/cat", "train/dog", "test/cat*2", "test/dog*2"]
READ = {
    "sub-folders": (["cat*4", "dog*4", "dog/poodle*20", "dog/husky*20"], (48, 34, 14), {}),
    "all in sub-folders": (["train/cat/images", "train/dog/images"], (6, 4, 2), {}),
    "hidden": (
        [
            *UNDIVIDED,
            "cat/.ipynb_checkpoints*2",
            ".git*5",
            "cat/@eaDir*4",
            "__MACOSX/dog*2",
            "dog/Thumbs.db!",
            "dog/._0.png!",
        ],
        (6, 4, 2),
        {"hidden": 8, "of the system": 7},
    ),
    "texts": ([*UNDIVIDED, "cat/labels.csv!", "dog/a/README.md!"], (6, 4, 2), {"not an image": 2}),
    "empty sub-folder": ([*UNDIVIDED, "dog/folder.png/"], (6, 4, 2), {"empty folder": 1}),
    "loose images": ([*DIVIDED, "train*5"], (6, 6, 4), {"outside class folders": 5}),
    "train and val": (["train/cat", "train/dog", "val/cat*2", "val/dog"], (6, 6, 5), {}),
    "capitals": (["Train/cat", "Train/dog", "TEST/cat*2", "TEST/dog"], (6, 6, 5), {}),
    "three splits": ([*DIVIDED, "val/cat*9"], (6, 6, 4), {"validation beside train and test": 9}),
    "other names": (["training/cat", "training/dog", "testing/cat", "testing/dog"], (6, 6, 6), {}),
    "test without classes": (["train/cat", "train/dog", "test*7"], (6, 4, 2), {"split without class folders": 7}),
    "test without images": (["train/cat", "train/dog", "test/"], (6, 4, 2), {"split without images": 1}),
    "a class named train": (["bus", "car", "train"], (9, 6, 3), {}),
    "masks beside": ([*DIVIDED, "masks*3", "docs/"], (6, 6, 4), {"beside the splits": 3}),
}


@pytest.mark.parametrize("name", READ)
def test_both_commands_read_the_same(tmp_path, name):
    places, expected, reasons = READ[name]
    fill(tmp_path, *places)
    if name == "all in sub-folders":
        assert ImageFolder(tmp_path).classes == ClassImages(tmp_path, None).classes == ["cat", "dog"]
    assert counts(tmp_path) == expected
    assert left_out(tmp_path) == reasons


REFUSED = {
    "split or class": (
        ["bus", "car", "train/steam", "train/diesel"],
        "holds train/ with class folders, and images in bus/",
    ),
    "no train": (
        ["test/cat", "test/dog"],
        "and no folder train/ with class folders: .* Pass .*/test to read that alone",
    ),
    "twice train": (["train/cat", "Training/cat"], "which name the same split"),
    "other split names": (["training_set/cat", "training_set/dog", "test_set/cat"], "test_set/ seems to be a split"),
    "years": (["train2017/cat", "val2017/cat"], "train2017/ seems to be a split"),
    "splits only": (["train", "test"], "test/ seems to be a split"),
    "classes of splits": (["cat/train", "cat/test", "dog/train", "dog/test"], "cat/ is divided into splits itself"),
    "a folder around": (["images/cat", "images/dog"], "all images are in folders inside images/"),
    "data sets": (["a/images/cat", "b/images/dog"], "those of a/ are several folders deep"),
    "nothing": (["cat/a.txt!"], "no images in|no class folders"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("reader", [ImageFolder, lambda root: ClassImages(root, None)], ids=["folder", "decompose"])
def test_what_cannot_be_told_is_refused(tmp_path, name, reader):
    places, message = REFUSED[name]
    fill(tmp_path, *places)
    with pytest.raises(RequestError, match=message) as caught:
        reader(tmp_path)
    assert "\n" not in str(caught.value)


FORMATS = {
    "gif": "GIF",
    "pgm": "PPM",
    "jfif": "JPEG",
    "jpe": "JPEG",
    "jp2": "JPEG2000",
    "tga": "TGA",
    "heic": "JPEG",
    "": "PNG",
}


def test_images_are_told_by_content(tmp_path):
    fill(tmp_path, "cat", "dog")
    for number, (ending, kind) in enumerate(FORMATS.items()):
        file = picture(tmp_path / "x.png", seed=number)
        Image.open(file).save(tmp_path / "dog" / f"x{number}{'.' * bool(ending)}{ending}", format=kind)
        file.unlink()
    (tmp_path / "dog/photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    assert counts(tmp_path)[0] == 6 + len(FORMATS)
    assert left_out(tmp_path) == {"not an image": 1}
    # A broken download stays an image: it is named where it is decoded.
    (tmp_path / "dog/9.jpg").write_text("<html>")
    assert counts(tmp_path)[0] == 7 + len(FORMATS)


def test_links(tmp_path):
    root = fill(tmp_path / "set", "cat", "dog", "dog/old*2")
    for place, target in {
        "dog/9.png": "nowhere", "dog/8.png": "8.png", "dog/up": "..", "self": root, "dog/same": "old", "dog/ring": ".",
        "dog/copy.png": "../cat/0.png",
    }.items():  # fmt: skip
        (root / place).symlink_to(target)
    assert counts(root) == (9, 6, 3)
    assert left_out(root) == {
        "link to a folder above it": 3,
        "link that leads nowhere": 2,
        "link to a folder that is read already": 1,
    }
    # A class may lie elsewhere, and a split beside.
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/train").symlink_to(root)
    assert counts(tmp_path / "linked")[0] == 9


@pytest.mark.parametrize(
    ("place", "target", "message"),
    [
        ("emu", "nowhere", "emu: cannot be read"),
        ("alias", "cat", "alias and .*/cat are the same folder"),
        ("poodle", "dog/old", "are the same folder"),
    ],
)
def test_links_in_place_of_classes_are_refused(tmp_path, place, target, message):
    (fill(tmp_path, "cat", "dog", "dog/old") / place).symlink_to(target)
    with pytest.raises(RequestError, match=message):
        read(tmp_path)


def test_a_test_split_that_is_the_training_split_is_refused(tmp_path):
    (fill(tmp_path, "train/cat", "train/dog") / "test").symlink_to("train")
    with pytest.raises(RequestError, match="are the same folder"):
        read(tmp_path)


def test_classes_in_two_unicode_forms(tmp_path):
    forms = [unicodedata.normalize(form, "Café") for form in ("NFC", "NFD")]
    fill(tmp_path / "a", f"train/{forms[0]}", f"test/{forms[1]}*2")
    assert counts(tmp_path / "a") == (3, 3, 2)
    assert ImageFolder(tmp_path / "a").classes == [forms[0]]
    assert len(ClassImages(tmp_path / "a", None, [forms[1]]).files) == 3
    with pytest.raises(RequestError, match=r"names .* twice"):
        ClassImages(tmp_path / "a", None, forms)
    fill(tmp_path / "b", *forms)
    with pytest.raises(RequestError, match="two folders named"):
        read(tmp_path / "b")


def test_empty_class_folders(tmp_path):
    fill(tmp_path, "cat", "dog", "bird/")
    assert ClassImages(tmp_path, None).classes == ["bird", "cat", "dog"]
    assert [label for _, label in ClassImages(tmp_path, None).files] == [1, 1, 1, 2, 2, 2]
    assert ImageFolder(tmp_path).classes == ["cat", "dog"]
    assert ImageFolder(tmp_path).left_out == {"class folder without images": {"files": 1, "example": "bird"}}
    fill(tmp_path / "b", "train/cat", "train/dog", "test/cat", "test/dog/")
    with pytest.raises(RequestError, match="class 'dog' has train images and no test image"):
        ImageFolder(tmp_path / "b")


def test_pipes_and_names_of_other_bytes(tmp_path):
    fill(tmp_path, "cat", "dog")
    os.mkfifo(tmp_path / "cat/x.png")
    (tmp_path / "cat/0.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/cat/\xff.png"))
    assert counts(tmp_path) == (6, 4, 2)
    assert left_out(tmp_path) == {"not an image": 1}


@pytest.mark.parametrize("name", ["hidden", "three splits", "test without classes"])
def test_the_summary_tells_what_was_left_out(tmp_path, name):
    places, (images, *_), reasons = READ[name]
    summary = ClassImages(fill(tmp_path, *places), None).summary()
    assert summary.startswith(f"{images} images of 2 classes in ")
    for reason, files in reasons.items():
        assert f"{reason}: {files} (" in summary
