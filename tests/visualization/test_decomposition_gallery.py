"""Drawings, and the whole way from an image folder to files on disk."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import bench.models  # noqa: F401 - lets torchvision be imported
from bench.cli.decompose import build, run
from bench.contract import CellError, InputConfig, RequestError
from bench.data.torch_dataset import ClassImages
from bench.posthoc import decompose, draw, load
from bench.visualization.decomposition_gallery import strongest
from tests.support.classifiers import QUICK, images, loader, net
from tests.support.samples import Silent


def test_drawings_are_of_plausible_size(tmp_path):
    classifier = net()
    x, labels = images(size=34)
    model = decompose(classifier, loader(x, labels), 3, config=QUICK, class_names=["a b", "../etc", "c", "d", "e"])
    files = draw(model, loader(x, labels), tmp_path / "new", classes=[1, 0], top=2)
    assert [file.name for file in files] == ["class_0001_.._etc.png", "class_0000_a_b.png"]
    for file in files:
        with Image.open(file) as drawing:
            assert drawing.width > 400
            assert drawing.height > 400
            pixels = np.asarray(drawing.convert("RGB"))
        assert pixels.std() > 20  # not an empty page
        assert 10_000 < file.stat().st_size < 2_000_000


def test_absent_prototypes_have_no_patch_and_no_heat(tmp_path, monkeypatch):
    classifier = net()
    x, labels = images(size=34)
    model = decompose(classifier, loader(x, labels), 2, config=QUICK)
    kept = strongest(model, loader(x, labels), [1], top=2)
    for example in kept[1][1]:
        example.heatmap = -1 - example.heatmap.abs()
        example.strength = float(example.heatmap.max())
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *args, **how: drawn.append(figure))
    monkeypatch.setattr("bench.visualization.decomposition_gallery.strongest", lambda *args: kept)
    draw(model, loader(x, labels), tmp_path, classes=[1], top=2)
    (figure,) = drawn
    axes = np.array(figure.axes).reshape(2, 4)
    assert "absent: the map is nowhere positive" in figure.get_suptitle()
    for row, absent in zip(axes, (False, True), strict=True):
        for patch, whole in zip(row[::2], row[1::2], strict=True):
            assert len(patch.images) == len(whole.patches) == (not absent)
            assert [text.get_text() for text in patch.texts] == ["absent"] * absent


def test_the_strongest_images_are_taken_in_any_order():
    classifier = net()
    x, labels = images(per_class=5)
    model = decompose(classifier, loader(x, labels), 2, config=QUICK)
    found = strongest(model, loader(x, labels), [2, 4], top=3, mean=(0, 0, 0), std=(1, 1, 1))
    with torch.no_grad():
        maps = model.explain(x).maps
    assert set(found) == {2, 4}
    for label in found:
        own = (labels == label).nonzero().flatten()
        for j, examples in enumerate(found[label]):
            values = maps[own, 2 * label + j].flatten(1).amax(1)
            expected = values.sort(descending=True)
            assert [example.strength for example in examples] == pytest.approx(expected.values[:3].tolist(), rel=1e-4)
            first = x[own[expected.indices[0]]].clamp(0, 1).permute(1, 2, 0).numpy()
            np.testing.assert_allclose(examples[0].image / 255, first, atol=0.003)
    turned = strongest(model, loader(x.flip(0), labels.flip(0)), [2, 4], top=3)
    assert [e.strength for e in turned[2][0]] == pytest.approx([e.strength for e in found[2][0]], rel=1e-4)


@pytest.fixture
def folder(tmp_path):
    """Two classes of flat colours with noise, one file each in another format and in grey."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("blue", "red")):
        (tmp_path / "data/train" / name).mkdir(parents=True)
        for i in range(3):
            pixels = generator.integers(0, 120, (80, 70, 3), dtype=np.uint8)
            pixels[..., 2 - 2 * label] += 100
            image = Image.fromarray(pixels)
            kind = "jpg" if i else "png"
            (image if i else image.convert("L")).save(tmp_path / "data/train" / name / f"{i}.{kind}")
    return tmp_path / "data"


@pytest.fixture
def weights(tmp_path):
    import timm

    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t", num_classes=2).state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_from_an_image_folder_to_files(folder, weights, tmp_path):
    out, progress = tmp_path / "out", Silent()
    outcome = run(
        "timm:resnet10t", weights, folder, 2, out, settings=QUICK.model_dump(), batch_size=4, top=2, progress=progress
    )
    assert sorted(file.name for file in out.iterdir()) == ["gallery", "prototypes.json", "prototypes.safetensors"]
    assert [file.name for file in outcome.drawings] == ["class_0000_blue.png", "class_0001_red.png"]
    assert outcome.facts["completeness_residual"] < 1e-4
    assert outcome.facts["images"] == 6
    classifier, _ = build("timm:resnet10t", weights, 2)
    model = load(out, classifier)
    assert model.class_names == ("blue", "red")
    # timm's configuration of these weights: its own size and interpolation, ImageNet's mean and deviation.
    assert model.input == InputConfig(interpolation="bicubic", size=176)
    assert any("classes/s" in note for note in progress.notes)


def test_images_beyond_those_per_class_are_not_read(folder, weights, tmp_path):
    last = folder / "train/red/2.jpg"
    last.write_bytes(last.read_bytes()[:300])
    with pytest.raises(RequestError, match=r"2\.jpg"):
        run("timm:resnet10t", weights, folder, 2, tmp_path / "all", settings=QUICK.model_dump())
    cut = run("timm:resnet10t", weights, folder, 2, tmp_path / "cut", settings=QUICK.model_dump(), images_per_class=2)
    assert cut.facts["images"] == 4


def test_requests_that_cannot_work_say_why(folder, weights, tmp_path):
    out = tmp_path / "out"

    def refused(message, model="timm:resnet10t", file=weights, data=folder, error=RequestError, **more):
        with pytest.raises(error, match=message):
            run(model, file, data, 2, out, **{"settings": QUICK.model_dump(), **more})

    refused("unknown model 'resnet10t': write timm:NAME or torchvision:NAME", model="resnet10t")
    refused(r"timm has no model 'resnet10q'; did you mean one of .*resnet10t", model="timm:resnet10q")
    refused("torchvision has no model 'resnet10t'", model="torchvision:resnet10t")
    refused("is no image classifier", model="torchvision:fcn_resnet50")
    refused("does not fit torchvision:resnet18: missing", model="torchvision:resnet18")
    refused("pretrained weights have 1000 classes and the data 2: pass --weights", file=None)
    refused("pretrained weights have 1000 classes and the data 2", model="torchvision:resnet18", file=None)
    refused("timm has no pretrained weights for nf_resnet26: pass --weights", model="timm:nf_resnet26", file=None)
    refused("no weight file", file=tmp_path / "none.pth")
    refused("no folder", data=tmp_path / "none")
    refused("no class folders", data=folder / "train/red")
    refused("unknown: unknown setting; known: factorisation, k", settings={"unknown": 1})
    planted = tmp_path / "planted"
    (tmp_path / "evil.pth").write_bytes(f"cos\nsystem\n(S'touch {planted}'\ntR.".encode())
    refused(r"is no file of torch\.save: refused, nothing in it was run", file=tmp_path / "evil.pth")
    assert not planted.exists()
    (tmp_path / "names.txt").write_text("red\ngreen\n")
    refused("blue is no class of the list of 2 classes", classes=tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("red\nblue\ngreen\n")
    refused(r"wrong shape: fc.weight \(2, 512\) instead of \(3, 512\)", classes=tmp_path / "names.txt")
    (folder / "train/green").mkdir()
    refused(r"wrong shape", classes=tmp_path / "names.txt")
    (folder / "train/green").rmdir()
    (tmp_path / "names.txt").write_text("red\nblue\n")
    (folder / "train/red/9.jpg").write_bytes(b"not a picture")
    refused(r"9.jpg: cannot be decoded", classes=tmp_path / "names.txt")
    (folder / "train/red/9.jpg").unlink()
    for file in (folder / "train/red").iterdir():
        file.unlink()
    refused(r"class 1 \(red\) has no image", error=CellError)


def test_pictures_follow_the_list_of_classes(folder):
    pictures = ClassImages(folder, lambda image: image.size, ["red", "nothing", "blue"])
    assert [label for _, label in pictures.files] == [0, 0, 0, 2, 2, 2]
    assert pictures[0] == ((70, 80), 0)
    assert [pictures.files[i][1] for i in pictures.of([2]).indices] == [2, 2, 2]


def test_grey_images_of_16_bits_are_not_white(tmp_path):
    (tmp_path / "moth").mkdir()
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 256 + 99
    Image.fromarray(ramp).save(tmp_path / "moth" / "a.png")
    image, label = ClassImages(tmp_path, np.asarray)[0]
    assert label == 0
    np.testing.assert_array_equal(image, np.repeat((ramp >> 8)[:, :, None], 3, axis=2))
