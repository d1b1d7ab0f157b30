import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import bench.models  # noqa: F401  before anything that imports torchvision

# isort: split
import numpy as np
import pytest
import torch

from bench.contract import CellError, RequestError
from bench.data import cache
from bench.data.cache import prepare
from bench.data.cub import Cub
from bench.data.preprocessing import Preprocessing
from tests.support.cub_trees import PARTS, Quiet, edit, make_tree, real

SMALL = Preprocessing(size=32)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def only(home: Path) -> Path:
    """The one cache under home; nothing but its lock lies beside it."""
    found = [path for path in (home / "prepared").iterdir() if path.suffix != ".lock"]
    assert len(found) == 1, found
    return found[0]


def spoil(root: Path, *names: str) -> None:
    for name in names:
        file = next((root / "images").rglob(name))
        file.write_bytes(file.read_bytes()[:-100])


@pytest.fixture
def root(tmp_path):
    (tmp_path / "tree").mkdir()
    return make_tree(tmp_path / "tree", 12)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def train(root, home):
    return prepare(Cub(root), SMALL, home, Quiet())["train"]


def test_holds_what_the_protocol_gives(root, home):
    cub = Cub(root)
    found = prepare(cub, SMALL, home, Quiet())
    assert only(home).name == f"{cub.digest}-bbox-32-truncated"
    assert set(found) == {"train", "test"}
    for split, samples in found.items():
        records = cub.split(split)
        assert len(samples) == len(records)
        assert list(samples.ids) == [record.id for record in records]
        assert (samples.size, samples.classes, samples.parts) == (32, 2, PARTS)
        assert (samples.class_names, samples.skipped) == (cub.classes, [])
        assert (samples.digest, samples.protocol) == (cub.digest, SMALL.name)
        assert samples.labels.dtype == torch.int64
        assert samples.visible.dtype == torch.bool
        assert samples.keypoints.dtype == samples.boxes.dtype == torch.float64
        for position, record in enumerate(records):
            expected = SMALL.apply(record)
            np.testing.assert_array_equal(samples.images[position].transpose(2, 0, 1), expected.image)
            np.testing.assert_array_equal(samples.keypoints[position], expected.keypoints)
            np.testing.assert_array_equal(samples.visible[position], expected.visible)
            np.testing.assert_array_equal(samples.boxes[position], expected.box)
            assert samples.labels[position] == record.label


def test_files_are_as_documented(root, home):
    prepare(Cub(root), SMALL, home, Quiet())
    assert sorted(contents(only(home))) == ["meta.json", "test.images.npy", "test.npz", "train.images.npy", "train.npz"]
    images = np.load(only(home) / "train.images.npy")
    assert (images.shape, images.dtype) == ((8, 32, 32, 3), np.uint8)
    assert json.loads((only(home) / "meta.json").read_text())["parts"] == PARTS


def test_byte_identical_when_repeated(root, tmp_path, monkeypatch):
    prepare(Cub(root), SMALL, tmp_path / "one", Quiet())
    monkeypatch.setattr("time.localtime", lambda *_: (2001, 2, 3, 4, 5, 6, 0, 0, 0))
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    prepare(Cub(root), SMALL, tmp_path / "two", Quiet())
    assert contents(only(tmp_path / "one")) == contents(only(tmp_path / "two"))


def test_second_call_opens_without_decoding(root, home, monkeypatch):
    first = prepare(Cub(root), SMALL, home, Quiet())
    monkeypatch.setattr(cache, "_write", None)
    quiet = Quiet()
    second = prepare(Cub(root), SMALL, home, quiet)
    assert not quiet.notes
    np.testing.assert_array_equal(first["test"].images, second["test"].images)


def test_changed_data_or_protocol_gets_another_cache(root, home):
    prepare(Cub(root), SMALL, home, Quiet())
    prepare(Cub(root), Preprocessing(size=16), home, Quiet())
    edit(root / "bounding_boxes.txt", 1, "10 0 0 30 30")
    prepare(Cub(root), SMALL, home, Quiet())
    assert len([path for path in (home / "prepared").iterdir() if path.is_dir()]) == 3


def cut(name, keep):
    def damage(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:keep])

    return damage


def longer(folder):
    with (folder / "train.images.npy").open("ab") as file:
        file.write(b"x")


def swapped(folder):
    (folder / "train.images.npy").write_bytes((folder / "test.images.npy").read_bytes())


def flipped_bit(folder):
    data = bytearray((folder / "test.npz").read_bytes())
    data[300] ^= 1
    (folder / "test.npz").write_bytes(bytes(data))


def other_format(folder):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"format": 0}))


@pytest.mark.parametrize(
    "damage",
    [
        cut("train.images.npy", -1),
        cut("train.images.npy", 50),
        cut("test.images.npy", 0),
        cut("test.npz", -20),
        cut("meta.json", 40),
        longer,
        swapped,
        flipped_bit,
        other_format,
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "train.npz").unlink(),
        lambda folder: (folder / "meta.json").write_text("[]"),
    ],
)
def test_a_damaged_cache_is_noted_and_rebuilt(root, home, damage):
    prepare(Cub(root), SMALL, home, Quiet())
    before = contents(only(home))
    damage(only(home))
    assert contents(only(home)) != before
    quiet = Quiet()
    prepare(Cub(root), SMALL, home, quiet)
    assert len(quiet.notes) == 1
    assert str(only(home)) in quiet.notes[0]
    assert "damaged" in quiet.notes[0]
    assert contents(only(home)) == before


def test_killed_while_writing(root, home):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from bench.data.cub import Cub; from bench.data.preprocessing import Preprocessing\n"
        "from bench.data.cache import prepare\n"
        "class Deadly:\n"
        "    def track(self, items, what, total=None):\n"
        "        for number, item in enumerate(items):\n"
        "            if number == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "            yield item\n"
        "prepare(Cub(Path(sys.argv[1])), Preprocessing(size=32), Path(sys.argv[2]), Deadly())\n"
    )
    place = Path(cache.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, root, home], cwd=place, check=False)
    assert done.returncode == -signal.SIGKILL
    assert only(home).name.startswith(".")
    prepare(Cub(root), SMALL, home, Quiet())
    assert only(home).name == f"{Cub(root).digest}-{SMALL.name}"


def test_a_failed_write_leaves_nothing(root, home):
    spoil(root, "bird_5.png")
    with pytest.raises(CellError):
        prepare(Cub(root), SMALL, home, Quiet())
    assert [path.suffix for path in (home / "prepared").iterdir()] == [".lock"]


def test_a_second_process_waits_for_the_first(root, home):
    started, go, results = threading.Event(), threading.Event(), {}

    class Slow(Quiet):
        def track(self, items, what, total=None):
            started.set()
            assert go.wait(10)
            yield from items

    class Waiting(Quiet):
        def note(self, message):
            super().note(message)
            go.set()

        def track(self, items, what, total=None):
            raise AssertionError("the second must not write")

    def run(name, progress):
        results[name] = prepare(Cub(root), SMALL, home, progress)

    first = threading.Thread(target=run, args=("first", Slow()))
    first.start()
    assert started.wait(10)
    waiting = Waiting()
    run("second", waiting)
    first.join(10)
    assert "waiting for another process" in waiting.notes[0]
    np.testing.assert_array_equal(results["first"]["train"].images, results["second"]["train"].images)
    only(home)


def test_without_locks_a_second_process_waits_too(root, home, monkeypatch):
    def no_lock(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", no_lock)
    test_a_second_process_waits_for_the_first(root, home)


def shifted(folder):
    """Another class for every image: a whole file that says something else."""
    with np.load(folder / "test.npz") as file:
        tables = dict(file)
    np.savez(folder / "test.npz", **{**tables, "labels": (tables["labels"] + 1) % 2})


def repainted(folder):
    """One pixel, in place; size and time of change as before."""
    file = folder / "train.images.npy"
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"\x07")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def renamed(folder):
    meta = json.loads((folder / "meta.json").read_text())
    meta["splits"]["test"]["ids"].reverse()
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("change", [shifted, repainted, renamed])
def test_what_was_altered_is_named_and_made_anew(root, home, change):
    prepare(Cub(root), SMALL, home, Quiet())
    before = contents(only(home))
    change(only(home))
    assert contents(only(home)) != before
    quiet = Quiet()
    prepare(Cub(root), SMALL, home, quiet)
    assert "was changed after it was written); it is written again" in quiet.notes[0]
    assert contents(only(home)) == before


def test_images_are_hashed_once_in_a_process(root, home, monkeypatch):
    prepare(Cub(root), SMALL, home, Quiet())
    hashed = []
    monkeypatch.setattr("bench.data.cache.sha256_of", hashed.append)
    prepare(Cub(root), SMALL, home, Quiet())
    assert hashed == []


def test_a_cache_of_an_earlier_version_is_used(root, home):
    prepare(Cub(root), SMALL, home, Quiet())
    file = only(home) / "meta.json"
    meta = {name: value for name, value in json.loads(file.read_text()).items() if name not in ("files", "seal")}
    file.write_text(json.dumps(meta))
    quiet = Quiet()
    assert len(prepare(Cub(root), SMALL, home, quiet)["train"]) == 8
    assert quiet.notes == []
    assert json.loads(file.read_text()) == meta


def test_first_bad_image_is_named(root, home):
    spoil(root, "bird_7.png", "bird_5.png")
    with pytest.raises(CellError, match=r"bird_5\.png: cannot be decoded .* or go on without .* on_bad=skip"):
        prepare(Cub(root), SMALL, home, Quiet())


def test_bad_images_are_skipped_and_recorded(root, home):
    whole = prepare(Cub(root), SMALL, home / "whole", Quiet())
    spoil(root, "bird_5.png", "bird_7.png")
    edit(root / "bounding_boxes.txt", 1, "10 0 0 0.5 9")
    for _ in range(2):
        found = prepare(Cub(root), SMALL, home, Quiet(), on_bad="skip")
        assert only(home).name == f"{Cub(root).digest}-{SMALL.name}-skip"
        train, test = found["train"], found["test"]
        assert [name for name, _ in train.skipped] == ["002.Wren/bird_5.png", "002.Wren/bird_7.png"]
        assert [name for name, _ in test.skipped] == ["001.Auk/bird_0.png"]
        assert train.skipped[0][1].startswith("cannot be decoded")
        assert "holds no pixel" in test.skipped[0][1]
        kept = torch.tensor([name[-5] not in "57" or name[-6] == "1" for name in whole["train"].ids])
        assert kept.sum() == len(train) == 6
        expected = whole["train"].subset(kept.nonzero()[:, 0])
        assert list(train.ids) == list(expected.ids)
        for name in ("labels", "keypoints", "visible", "boxes"):
            assert torch.equal(getattr(train, name), getattr(expected, name))
        for a, b in zip(train.batches(4), expected.batches(4), strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.labels, b.labels)
            assert torch.equal(a.index, b.index)


def test_skipping_is_noted_and_cannot_leave_nothing(root, home):
    spoil(root, "bird_0.png")
    quiet = Quiet()
    prepare(Cub(root), SMALL, home, quiet, on_bad="skip")
    assert len(quiet.notes) == 1
    assert "test: 1 of 4 images left out, the first: 001.Auk/bird_0.png: cannot be decoded" in quiet.notes[0]
    spoil(root, "bird_3.png", "bird_6.png", "bird_9.png")
    with pytest.raises(CellError, match=r"no image of the test split .* 001\.Auk/bird_0\.png: cannot be decoded"):
        prepare(Cub(root), SMALL, home, Quiet(), on_bad="skip")


def test_a_full_disk_is_an_error_with_the_place(root, home, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(CellError, match=r"home/prepared/.*: No space left on device; make room"):
        prepare(Cub(root), SMALL, home, Quiet())


def test_space_is_reserved_before_writing(root, home, monkeypatch):
    monkeypatch.setattr("os.posix_fallocate", lambda handle, start, length: reserved.append(length))
    reserved = []
    prepare(Cub(root), SMALL, home, Quiet())
    sizes = [(only(home) / f"{split}.images.npy").stat().st_size for split in ("train", "test")]
    assert reserved == sizes


def test_a_home_that_cannot_be_written_is_named(root, home):
    home.write_text("a file")
    with pytest.raises(CellError, match=r"home/prepared: Not a directory; make room and write access"):
        prepare(Cub(root), SMALL, home, Quiet())


def test_data_that_do_not_fit(root, home):
    cub = Cub(root)
    cub.provides = frozenset({"image", "label"})
    with pytest.raises(RequestError, match="crop=full"):
        prepare(cub, SMALL, home, Quiet())
    cub = Cub(root)
    cub._splits["test"] += cub.split("train")[1:3]
    with pytest.raises(RequestError, match=r"001\.Auk/bird_2\.png is in both train and test"):
        prepare(cub, SMALL, home, Quiet())
    cub._splits["test"] = []
    with pytest.raises(RequestError, match="the test split has no images"):
        prepare(cub, SMALL, home, Quiet())


def test_real_subset(home):
    cub = Cub(real("cub3_full"), home / "digests")
    found = prepare(cub, Preprocessing(), home, Quiet())
    assert (len(found["train"]), len(found["test"])) == (90, 62)
    for samples in found.values():
        points = samples.keypoints[samples.visible]
        assert ((points >= 0) & (points < 224) & (points == points.round())).all()
        assert torch.equal(
            samples.boxes, torch.tensor([[0.0, 0, 224, 224]], dtype=torch.float64).expand(len(samples), 4)
        )
