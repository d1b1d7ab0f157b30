from pathlib import Path

import pytest

from bench.contract import RequestError
from bench.data.cub import Cub
from tests.support.cub_trees import NAMES, PARTS, edit, make_tree, real


def both(cub: Cub) -> list:
    return [*cub.split("train"), *cub.split("test")]


def test_reads_what_is_written(tmp_path):
    root = make_tree(tmp_path)
    edit(root / "bounding_boxes.txt", 2, "20 1.5 2.0 30.25 40.0")
    edit(root / "parts/part_locs.txt", 18, "20 3 12.5 7.0 1")
    cub = Cub(root)
    assert list(cub.classes) == NAMES
    assert list(cub.parts) == PARTS
    assert cub.provides == {"image", "label", "bbox", "keypoints"}
    assert [record.id[-5] for record in cub.split("train")] == ["1", "2", "4", "5"]
    assert [record.id[-5] for record in cub.split("test")] == ["0", "3"]
    record = cub.split("train")[0]
    assert record.id == "002.Wren/bird_1.png"
    assert record.path == root / "images/002.Wren/bird_1.png"
    assert record.label == 1
    assert record.box == (1.5, 2.0, 30.25, 40.0)
    assert record.keypoints[2] == (12.5, 7.0, True)
    assert record.keypoints[1] == (0.0, 0.0, False)
    assert record.mask is None


def test_order_is_that_of_images_txt(tmp_path):
    root = make_tree(tmp_path)
    before = both(Cub(root))
    for name in ("image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "parts/part_locs.txt"):
        (root / name).write_text("".join(reversed((root / name).read_text().splitlines(keepends=True))))
    assert both(Cub(root)) == before
    rows = (root / "images.txt").read_text().splitlines(keepends=True)
    (root / "images.txt").write_text("".join(reversed(rows)))
    train = sum(record in Cub(root).split("train") for record in before)
    assert both(Cub(root)) == before[:train][::-1] + before[train:][::-1]


def test_windows_line_ends_byte_order_mark_and_blank_lines(tmp_path):
    root = make_tree(tmp_path)
    before = both(Cub(root))
    for file in [*root.glob("*.txt"), *root.glob("parts/*.txt")]:
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n \r\n")
    cub = Cub(root)
    assert both(cub) == before
    assert list(cub.classes) == NAMES


@pytest.mark.parametrize("place", ["tree/segmentations", "segmentations"])
def test_masks_inside_or_beside(tmp_path, place):
    (tmp_path / "tree").mkdir()
    root = make_tree(tmp_path / "tree", masks=tmp_path / place)
    cub = Cub(root)
    assert "mask" in cub.provides
    for record in both(cub):
        assert record.mask == tmp_path / place / record.id
    before = cub.digest
    (tmp_path / place / "001.Auk/bird_0.png").write_bytes(b"other")
    assert Cub(root).digest != before
    (tmp_path / place / "001.Auk/bird_2.png").unlink()
    with pytest.raises(RequestError, match=r"images\.txt:3: its mask .*bird_2\.png is not on disk"):
        Cub(root)


def test_segmentations_of_another_data_set_are_not_ours(tmp_path):
    (tmp_path / "tree").mkdir()
    root = make_tree(tmp_path / "tree")
    (tmp_path / "segmentations/005.Crow").mkdir(parents=True)
    (tmp_path / "segmentations/005.Crow/a.png").write_bytes(b"")
    assert "mask" not in Cub(root).provides


FAULTS = [
    ("images.txt", 2, "20", "images.txt:2", "1 fields instead of 2"),
    ("images.txt", 2, "x 002.Wren/bird_1.png", "images.txt:2", "'x' is not a whole number"),
    ("images.txt", 2, "10 002.Wren/bird_1.png", "images.txt:2", "already used on line 1"),
    ("images.txt", 2, "20 001.Auk/bird_0.png", "images.txt:2", "already named on line 1"),
    ("images.txt", 2, "20 001.Auk/./bird_0.png", "images.txt:2", "already named on line 1"),
    ("images.txt", 2, "20 ../classes.txt", "images.txt:2", "leaves the images folder"),
    ("images.txt", 2, "20 /etc/hosts", "images.txt:2", "leaves the images folder"),
    ("images.txt", 2, "20 002.Wren/absent.png", "images.txt:2", "002.Wren/absent.png is not on disk"),
    ("images.txt", 2, "20 003.Absent/bird_1.png", "images.txt:2", "003.Absent/bird_1.png is not on disk"),
    ("images.txt", 2, "20 002.Wren", "images.txt:2", "002.Wren is not on disk"),
    ("images.txt", 2, "", "images.txt:2", "0 fields instead of 2"),
    ("images.txt", 2, None, "image_class_labels.txt:2", "image 20 is not in images.txt"),
    ("classes.txt", 2, "3 002.Wren", "classes.txt:2", "id 3 instead of 2"),
    ("classes.txt", 2, "1 002.Wren", "classes.txt:2", "id 1 instead of 2"),
    ("classes.txt", 1, "0 001.Auk", "classes.txt:1", "id 0 instead of 1"),
    ("image_class_labels.txt", 2, "20 1 1", "image_class_labels.txt:2", "3 fields instead of 2"),
    ("image_class_labels.txt", 2, "20 3", "image_class_labels.txt:2", "class id 3 is not in classes.txt (1 to 2)"),
    ("image_class_labels.txt", 2, "20 0", "image_class_labels.txt:2", "class id 0 is not in classes.txt (1 to 2)"),
    ("image_class_labels.txt", 2, "20 1.5", "image_class_labels.txt:2", "'1.5' is not a whole number"),
    ("image_class_labels.txt", 2, "10 1", "image_class_labels.txt:2", "image 10 has a line already"),
    ("image_class_labels.txt", 2, "99 1", "image_class_labels.txt:2", "image 99 is not in images.txt"),
    ("image_class_labels.txt", 2, None, "image_class_labels.txt:", "no line for image 20 (images.txt:2)"),
    ("train_test_split.txt", 2, "20 2", "train_test_split.txt:2", "flag '2' instead of 0 (test) or 1 (train)"),
    ("train_test_split.txt", 2, None, "train_test_split.txt:", "no line for image 20 (images.txt:2)"),
    ("train_test_split.txt", 7, "70 1", "train_test_split.txt:7", "image 70 is not in images.txt"),
    ("bounding_boxes.txt", 2, "20 1 2 3", "bounding_boxes.txt:2", "4 fields instead of 5"),
    ("bounding_boxes.txt", 2, "20 1 2 3 four", "bounding_boxes.txt:2", "'four' is not a finite number"),
    ("bounding_boxes.txt", 2, "20 1 2 nan 4", "bounding_boxes.txt:2", "'nan' is not a finite number"),
    ("bounding_boxes.txt", 2, "20 1 2 3 inf", "bounding_boxes.txt:2", "'inf' is not a finite number"),
    ("bounding_boxes.txt", 2, "20 1 2 -3 4", "bounding_boxes.txt:2", "negative side (-3 by 4)"),
    ("bounding_boxes.txt", 2, None, "bounding_boxes.txt:", "no line for image 20 (images.txt:2)"),
    ("parts/parts.txt", 2, "2", "parts.txt:2", "1 fields instead of 2"),
    ("parts/parts.txt", 15, None, "part_locs.txt:15", "part id 15 is not in parts.txt (1 to 14)"),
    ("parts/part_locs.txt", 17, "20 16 1 1 1", "part_locs.txt:17", "part id 16 is not in parts.txt (1 to 15)"),
    ("parts/part_locs.txt", 17, "20 0 1 1 1", "part_locs.txt:17", "part id 0 is not in parts.txt"),
    ("parts/part_locs.txt", 17, "20 1 1 1 1", "part_locs.txt:17", "image 20 has a line for part 1 already"),
    ("parts/part_locs.txt", 17, "20 2 1 1 2", "part_locs.txt:17", "visible flag '2' instead of 0 or 1"),
    ("parts/part_locs.txt", 17, "20 2 1 1", "part_locs.txt:17", "4 fields instead of 5"),
    ("parts/part_locs.txt", 17, "20 2 NaN 1 1", "part_locs.txt:17", "x 'NaN' is not a finite number"),
    ("parts/part_locs.txt", 17, "20 2 1 -inf 1", "part_locs.txt:17", "y '-inf' is not a finite number"),
    ("parts/part_locs.txt", 17, "99 2 1 1 1", "part_locs.txt:17", "image 99 is not in images.txt"),
    ("parts/part_locs.txt", 17, None, "part_locs.txt:", "no line for image 20 (images.txt:2), part 2"),
]


@pytest.mark.parametrize(("file", "line", "text", "where", "what"), FAULTS)
def test_faults_are_one_line_with_place_and_cure(tmp_path, file, line, text, where, what):
    root = make_tree(tmp_path)
    edit(root / file, line, text)
    with pytest.raises(RequestError) as caught:
        Cub(root)
    message = str(caught.value)
    assert message.startswith(str(root))
    assert where in message
    assert what in message
    assert "unpack the official archive again" in message
    assert "\n" not in message


@pytest.mark.parametrize("file", ["images.txt", "classes.txt", "bounding_boxes.txt", "parts/part_locs.txt"])
def test_missing_empty_and_binary_files(tmp_path, file):
    root = make_tree(tmp_path)
    (root / file).write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(RequestError, match=f"{file}: cannot be read as text"):
        Cub(root)
    (root / file).write_text("\n")
    with pytest.raises(RequestError, match=f"{file}:1: 0 fields"):
        Cub(root)
    (root / file).unlink()
    with pytest.raises(RequestError, match=f"{file} is missing; the folder passed must be"):
        Cub(root)


def test_missing_images_are_counted(tmp_path):
    root = make_tree(tmp_path)
    (root / "images/002.Wren/bird_1.png").unlink()
    (root / "images/001.Auk/bird_4.png").unlink()
    with pytest.raises(RequestError, match=r"images\.txt:2: .*bird_1\.png is not on disk \(nor 1 more\)"):
        Cub(root)


def test_unknown_split(tmp_path):
    with pytest.raises(RequestError, match=r"no split 'val'.*train and test"):
        Cub(make_tree(tmp_path)).split("val")


def test_digest_is_of_content_and_is_remembered(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = make_tree(tmp_path / "a"), make_tree(tmp_path / "b")
    cache = tmp_path / "cache"
    before = Cub(a, cache).digest
    assert Cub(b, cache).digest == Cub(b).digest == before
    assert len(list(cache.iterdir())) == 2
    edit(a / "bounding_boxes.txt", 1, "10 0 0 30 30")
    assert Cub(a, cache).digest != before
    Path(b / "images/001.Auk/bird_0.png").write_bytes(b"other")
    assert Cub(b, cache).digest != before


@pytest.mark.parametrize(("name", "train", "test", "classes"), [("cub50", 1500, 1452, 50), ("cub3_full", 90, 62, 3)])
def test_real_subsets(name, train, test, classes):
    cub = Cub(real(name))
    assert (len(cub.split("train")), len(cub.split("test")), len(cub.classes)) == (train, test, classes)
    assert list(cub.parts) == PARTS
    assert {record.label for record in both(cub)} == set(range(classes))
    for record in both(cub):
        assert record.id.startswith(cub.classes[record.label] + "/")
        assert any(visible for _, _, visible in record.keypoints)
