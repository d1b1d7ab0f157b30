"""Object masks are cut and resized exactly as their images, kept beside them, and mended when damaged."""

from fractions import Fraction
from math import floor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from bench.contract import CellError
from bench.data.cache import cache_folder, prepare
from bench.data.cub import Cub
from bench.data.object_masks import with_masks
from bench.data.preprocessing import Preprocessing
from bench.runner.evaluator import observe
from tests.support.cub_trees import Quiet, make_tree


@pytest.fixture
def birds(tmp_path):
    return make_tree(tmp_path / "birds", 9, masks=tmp_path / "segmentations")


def opened(birds, home, **protocol):
    dataset, protocol, quiet = Cub(birds), Preprocessing(size=32, **protocol), Quiet()
    split = prepare(dataset, protocol, home, quiet)["test"]
    folder = cache_folder(dataset.digest, protocol, home)
    return dataset, with_masks(split, "test", dataset, protocol, folder, quiet), quiet


def nearest(first, last, pixel, size=32):
    """The stored pixel in the middle of a pixel of the result, of a range that is squashed."""
    return first + floor(Fraction(2 * pixel + 1, 2 * size) * (last - first))


@pytest.mark.parametrize("crop", ["bbox", "full"])
def test_masks_are_the_nearest_pixels(birds, tmp_path, crop):
    dataset, split, _ = opened(birds, tmp_path / "home", crop=crop)
    for record, mask in zip(dataset.split("test"), split.masks, strict=True):
        stored = np.asarray(Image.open(record.mask))
        x, y, w, h = (int(v) for v in record.box) if crop == "bbox" else (0, 0, *stored.shape[::-1])
        expected = [[stored[nearest(y, y + h, r), nearest(x, x + w, c)] for c in range(32)] for r in range(32)]
        assert mask.tolist() == expected


def test_they_are_prepared_once_and_mended(birds, tmp_path):
    home = tmp_path / "home"
    _, split, _ = opened(birds, home)
    masks = split.masks.copy()
    file = next(home.glob("prepared/*-masks-test/masks.npy"))
    written = file.stat().st_mtime_ns
    opened(birds, home)
    assert file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:-1])
    _, again, _ = opened(birds, home)
    np.testing.assert_array_equal(again.masks, masks)
    np.testing.assert_array_equal(again.subset(torch.tensor([2, 0])).masks, masks[[2, 0]])


def test_a_mask_of_another_size_is_named(birds, tmp_path):
    name = Cub(birds).split("test")[1].mask
    Image.new("L", (5, 6)).save(name)
    with pytest.raises(CellError, match=rf"{name}: 5 by 6 pixels, its image has"):
        opened(birds, tmp_path / "home")


def test_batches_have_the_masks_of_their_images(birds, tmp_path):
    _, split, _ = opened(birds, tmp_path / "home")
    for batch in split.batches(2, index=torch.tensor([2, 0, 1])):
        seen = observe(SimpleNamespace(), split, batch)
        np.testing.assert_array_equal(seen.masks, split.masks[batch.index.numpy()])


def test_a_data_set_without_masks(tmp_path):
    _, split, _ = opened(make_tree(tmp_path / "birds"), tmp_path / "home")
    assert split.masks is None
