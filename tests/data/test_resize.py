"""Protocols other than the reference path: what is cut and how it is resized, against torchvision."""

import bench.models  # noqa: F401  before anything that imports torchvision

# isort: split
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from bench.config import schema
from bench.contract import Record, RequestError
from bench.data.cache import prepare
from bench.data.cars import Cars
from bench.data.cub import Cub
from bench.data.preprocessing import PRESETS, Preprocessing
from tests.support.cub_trees import Quiet, make_cars, real

CENTRE = Preprocessing(**PRESETS["torchvision"])


@pytest.fixture(scope="module")
def birds():
    return Cub(real("cub3_full")).split("train")[::4]


def test_presets_by_name():
    assert Preprocessing(**PRESETS["huang2023"]) == Preprocessing()
    assert schema.dataset_config("cars", {}).protocol == Preprocessing(crop="full")
    assert schema.dataset_config("imagenet", {}).protocol == CENTRE
    chosen = schema.dataset_config("cub", {"cub.protocol": "torchvision", "cub.protocol.size": 64}).protocol
    assert chosen == CENTRE.model_copy(update={"size": 64})
    with pytest.raises(RequestError, match=r"cub\.protocol: unknown protocol 'huang2032'; did you mean 'huang2023'\?"):
        schema.dataset_config("cub", {"cub.protocol": "huang2032"})


def test_every_setting_is_in_the_name_and_the_identity():
    protocols = [
        Preprocessing(),
        Preprocessing(resize="resize-centre-crop"),
        Preprocessing(interpolation="bicubic"),
        Preprocessing(antialias=False),
        Preprocessing(interpolation="bicubic", antialias=False),
        Preprocessing(outside="hidden"),
        Preprocessing(resize="resize-centre-crop", outside="kept"),
    ]
    assert len({protocol.name for protocol in protocols}) == len(protocols)
    assert len({str(protocol.model_dump(mode="json")) for protocol in protocols}) == len(protocols)
    assert all(Preprocessing(**protocol.model_dump()) == protocol for protocol in protocols)
    # Results recorded before these settings existed stand for the same protocol.
    assert Preprocessing().model_dump() == {"crop": "bbox", "size": 224, "coordinates": "truncated"}


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_centre_crop_pixel_by_pixel(birds, interpolation):
    mode = v2.InterpolationMode(interpolation)
    expected = v2.Compose([v2.Resize(256, interpolation=mode), v2.CenterCrop(224), v2.PILToTensor()])
    protocol = CENTRE.model_copy(update={"interpolation": interpolation})
    for record in birds:
        with Image.open(record.path) as image:
            np.testing.assert_array_equal(protocol.apply(record).image, expected(image.convert("RGB")).numpy())


def test_key_points_and_boxes_follow_the_centre_crop(birds):
    cut_off = 0
    for record in birds:
        found = CENTRE.apply(record)
        with Image.open(record.path) as image:
            width, height = image.size
        seen = np.array([seen for _, _, seen in record.keypoints])
        moved = tv_tensors.KeyPoints([point[:2] for point in record.keypoints], canvas_size=(height, width))
        moved = tvf.center_crop(tvf.resize(moved, [256]), [224, 224]).numpy()[:, ::-1]
        # What the crop has cut off is no key-point of this image.
        left = seen & ((moved >= 0) & (moved < 224)).all(1)
        cut_off += int(seen.sum() - left.sum())
        np.testing.assert_array_equal(found.visible, left)
        np.testing.assert_allclose(found.keypoints[left], moved[left], rtol=1e-5, atol=1e-3)
        assert not found.keypoints[~left].any()
        kept = CENTRE.model_copy(update={"outside": "kept"}).apply(record)
        np.testing.assert_array_equal(kept.visible, seen)
        np.testing.assert_allclose(kept.keypoints[seen], moved[seen], rtol=1e-5, atol=1e-3)
        x, y, w, h = record.box
        box = tv_tensors.KeyPoints([[x, y], [x + w, y + h]], canvas_size=(height, width))
        box = tvf.center_crop(tvf.resize(box, [256]), [224, 224]).numpy()[:, ::-1]
        np.testing.assert_allclose(found.box, box.ravel(), rtol=1e-5, atol=1e-3)
    assert cut_off > 10


def test_truncated_key_points_are_pixels_of_the_cut(tmp_path):
    """80 by 40 becomes 32 by 16, of which the middle 14 by 14 is cut: 9 from the left, 1 from the top."""
    image = np.zeros((40, 80, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    record = Record("a", tmp_path / "a.png", 0, (20, 10, 40, 20), ((40.9, 21.2, True), (0.0, 0.0, False)))
    protocol = Preprocessing(crop="full", size=14, resize="resize-centre-crop")
    found = protocol.apply(record)
    assert found.image.shape == (3, 14, 14)
    assert found.keypoints.tolist() == [[7, 7], [0, 0]]  # rows 21 -> 8.4, columns 40 -> 16
    assert found.box.tolist() == [3, -1, 11, 15]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_without_antialiasing(birds, interpolation):
    protocol = Preprocessing(crop="full", interpolation=interpolation, antialias=False)
    mode = v2.InterpolationMode(interpolation)
    for record in birds[:4]:
        with Image.open(record.path) as image:
            whole = tvf.pil_to_tensor(image.convert("RGB"))
        expected = tvf.resize(whole, [224, 224], interpolation=mode, antialias=False)
        found = torch.from_numpy(protocol.apply(record).image.copy())
        # torchvision clamps bytes between its two bicubic passes, so a few pixels beside strong edges differ.
        apart = (found.int() - expected.int()).abs()
        assert (apart <= 1).float().mean() > (0.99 if interpolation == "bicubic" else 0.999999)
        smooth = Preprocessing(crop="full", interpolation=interpolation).apply(record).image
        assert np.abs(found.numpy().astype(int) - smooth).max() > 10


def test_data_without_key_points_is_prepared(tmp_path):
    found = prepare(Cars(make_cars(tmp_path / "cars")), Preprocessing(size=16), tmp_path / "home", Quiet())["test"]
    assert found.keypoints.shape == (6, 0, 2)
    assert found.visible.shape == (6, 0)
    assert found.boxes[0].tolist() == [0, 0, 16, 16]
    again = prepare(Cars(tmp_path / "cars"), CENTRE, tmp_path / "home", Quiet())["test"]
    assert again.protocol == "full-224-exact-centre"
    assert again.size == 224
