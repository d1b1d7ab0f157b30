"""What is kept of an interrupted decomposition is used for the same inputs only, and never in the way of others."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

import bench.posthoc.pipeline as classwise
from bench.cli import decompose as command
from bench.contract import CellError
from bench.models.split.features import Features
from bench.posthoc import decompose
from tests.support.classifiers import QUICK, images, loader, net
from tests.support.samples import Silent


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A folder where the features are whole and two classes finished, and what is told of a call in it."""
    real = classwise.decompose_classes

    def stops(config, F, rows, v, cells, seed, classes):
        if 2 in classes:
            raise KeyboardInterrupt
        return real(config, F, rows, v, cells, seed, classes)

    def call(x, labels, classifier=None, k=2, **more):
        progress = Silent()
        options = {"config": QUICK, "memory_limit": 11000, "folder": tmp_path, "progress": progress, **more}
        return decompose(classifier or net(), loader(x, labels), k, **options), progress.notes

    with monkeypatch.context() as patched:
        patched.setattr(classwise, "decompose_classes", stops)
        with pytest.raises(KeyboardInterrupt):
            call(*images())
    assert (tmp_path / "features.json").is_file()
    return tmp_path, call


def passes(monkeypatch):
    """Count forward passes from now on."""
    seen, real = [], Features.both
    monkeypatch.setattr(Features, "both", lambda self, x: (seen.append(len(x)), real(self, x))[1])
    return seen


def fresh(x, labels, classifier=None, k=2, **more):
    options = {"config": QUICK, "memory_limit": 11000, **more}
    return decompose(classifier or net(), loader(x, labels), k, **options)


def test_the_same_call_goes_on(stopped, monkeypatch):
    _, call = stopped
    seen = passes(monkeypatch)
    model, notes = call(*images())
    assert sum(seen) == 2 * len(images()[0][:6])  # the split is verified on the first batch, and its maps
    assert any("2 of 5 classes need no work" in note for note in notes)
    assert torch.equal(model.vectors, fresh(*images()).vectors)


@pytest.mark.parametrize("change", ["pixel", "order", "label", "classifier", "names", "k"])
def test_other_inputs_are_not_served_from_what_was_kept(stopped, change):
    _, call = stopped
    (x, labels), more = images(), {}
    if change == "pixel":
        x = x.clone()
        x[3, 0, 0, 0] += 1
    elif change == "order":
        x, labels = x.flip(0), labels.flip(0)
    elif change == "label":
        labels = labels.roll(1)
    elif change == "classifier":
        more["classifier"] = net(seed=1)
    elif change == "names":
        more["class_names"] = list("edcba")
    else:
        more["k"] = 3
    model, notes = call(x, labels, **more)
    assert any("gathered again" in note for note in notes) == (change != "k")
    expected = fresh(x, labels, **more)
    assert torch.equal(model.vectors, expected.vectors)
    assert model.facts == expected.facts
    assert torch.equal(model.prototypes.source_image, expected.prototypes.source_image)


KEPT = ("features.bin", "features.safetensors", "features.json", "class-00001.safetensors", "class-00001.json")


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("how", ["altered", "cut"])
def test_kept_files_that_were_altered_are_not_used(stopped, name, how):
    folder, call = stopped
    (file,) = folder.rglob(name)
    content = file.read_bytes()
    place = len(content) - 30 if name.endswith(".json") else len(content) - 3
    changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    file.write_bytes(changed if how == "altered" else content[:-9])
    model, notes = call(*images())
    assert any("again" in note for note in notes), notes
    assert torch.equal(model.vectors, fresh(*images()).vectors)


def test_a_generator_goes_through_the_classifier_again(stopped):
    folder, _ = stopped
    x, labels = images()
    once = ((x[i : i + 6], labels[i : i + 6]) for i in range(0, len(x), 6))
    model = decompose(net(), once, 2, config=QUICK, memory_limit=11000, folder=folder)
    assert torch.equal(model.vectors, fresh(x, labels).vectors)


def test_a_refused_request_is_in_nobodys_way(tmp_path):
    x, labels = images()
    gap = labels != 3
    with pytest.raises(CellError, match="has no image"):
        decompose(net(), loader(x[gap], labels[gap]), 2, config=QUICK, folder=tmp_path)
    kept = decompose(net(), loader(x[gap], labels[gap]), 2, config=QUICK, folder=tmp_path, missing="keep")
    assert torch.equal(kept.vectors, fresh(x[gap], labels[gap], missing="keep").vectors)
    whole = decompose(net(), loader(x, labels), 2, config=QUICK, folder=tmp_path)
    assert torch.equal(whole.vectors, fresh(x, labels).vectors)
    with pytest.raises(CellError, match="k=9 exceeds"):
        decompose(net(), loader(x, labels), 9, config=QUICK, folder=tmp_path)
    assert decompose(net(), loader(x, labels), 3, config=QUICK, folder=tmp_path).k == 3


def test_images_are_told_apart_by_more_than_size_and_time(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"one")
    before = command._identity([(file, 0)], "plain")
    assert command._identity([(file, 0)], "plain") == before
    assert command._identity([(file, 1)], "plain") != before
    assert command._identity([(file, 0)], "other") != before
    stat = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_mtime_ns == stat.st_mtime_ns
    assert command._identity([(file, 0)], "plain") != before


def test_a_folder_of_images_after_an_error(tmp_path):
    import timm

    generator = np.random.default_rng(0)
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet10t", num_classes=2).state_dict(), tmp_path / "w.pth")

    def picture(name):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "data" / name)

    def run(k=2, out="out", **more):
        progress = Silent()
        given = {"settings": QUICK.model_dump(exclude={"k"}), "drawn": 0, "progress": progress, **more}
        command.run("timm:resnet10t", tmp_path / "w.pth", tmp_path / "data", k, tmp_path / out, **given)
        return (tmp_path / out / "prototypes.safetensors").read_bytes(), progress.notes

    for name in ("a/1.png", "a/2.png", "b/1.png"):
        picture(name)
    with pytest.raises(CellError, match="k=200 exceeds"):
        run(200)
    picture("b/1.png")  # another one under the same name
    picture("b/2.png")
    (tmp_path / "out/work/notes.txt").write_text("mine")
    found, notes = run()
    assert any("gathered again" in note for note in notes)
    assert found == run(out="new")[0]
    assert [file.name for file in (tmp_path / "out/work").iterdir()] == ["notes.txt"]
    assert not (tmp_path / "new/work").exists()
