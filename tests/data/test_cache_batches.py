"""Prepared images as batches: normalised, in order, changed by an augmentation, from a subset."""

import bench.models  # noqa: F401  before anything that imports torchvision

# isort: split
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from bench.data.augmentation import Augmentation
from bench.data.cache import prepare
from bench.data.cub import Cub
from bench.data.preprocessing import Preprocessing
from tests.support.cub_trees import Quiet, make_tree


@pytest.fixture
def train(tmp_path):
    (tmp_path / "tree").mkdir()
    tree = make_tree(tmp_path / "tree", 12)
    return prepare(Cub(tree), Preprocessing(size=32), tmp_path / "home", Quiet())["train"]


def test_batches_are_what_torchvision_gives(train):
    normalise = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = normalise(torch.from_numpy(np.array(train.images)).movedim(-1, 1).float().div(255))
    (batch,) = train.batches(100)
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.images, expected)
    assert torch.equal(batch.labels, train.labels)
    assert torch.equal(batch.index, torch.arange(8))


@pytest.mark.parametrize("batch_size", [1, 3, 8, 9])
def test_values_do_not_depend_on_the_batch_size(train, batch_size):
    order, flip = torch.tensor([5, 0, 7, 7, 2, 1, 3]), Augmentation(torch.arange(8) % 2 == 0)
    (whole,) = train.batches(100, index=order, augment=flip)
    batches = list(train.batches(batch_size, index=order, augment=flip))
    assert [len(batch.images) for batch in batches][:-1] == [batch_size] * (len(batches) - 1)
    for name in ("images", "labels", "index"):
        assert torch.equal(torch.cat([getattr(batch, name) for batch in batches]), getattr(whole, name))
    assert torch.equal(whole.index, order)
    assert torch.equal(whole.labels, train.labels[order])


def test_flip_is_by_position_in_the_split(train):
    (plain,) = train.batches(100)
    order, flip = torch.tensor([6, 1, 4]), torch.zeros(8, dtype=torch.bool)
    flip[[1, 2]] = True
    (batch,) = train.batches(100, index=order, augment=Augmentation(flip))
    expected = plain.images[order]
    expected[1] = expected[1].flip(-1)
    assert torch.equal(batch.images, expected)
    assert not torch.equal(batch.images[1], plain.images[1])


def test_wrong_requests_for_batches(train):
    for index in (torch.tensor([8]), torch.tensor([-1]), torch.tensor([[0]])):
        with pytest.raises(IndexError, match="from 0 to 7"):
            train.batches(2, index=index)
    with pytest.raises(ValueError, match="batch size 0"):
        train.batches(0)
    assert list(train.batches(2, index=torch.tensor([], dtype=torch.long))) == []


def test_subset_of_a_subset(train):
    part = train.subset(torch.tensor([7, 3, 5])).subset(torch.tensor([2, 0]))
    assert len(part) == 2
    assert part.ids == [train.ids[5], train.ids[7]]
    assert part.classes == 2
    (batch,) = part.batches(8, augment=Augmentation(torch.tensor([True, False])))
    (whole,) = train.batches(8)
    assert torch.equal(batch.index, torch.tensor([0, 1]))
    assert torch.equal(batch.images[0], whole.images[5].flip(-1))
    assert torch.equal(batch.images[1], whole.images[7])
    for name in ("labels", "keypoints", "visible", "boxes"):
        assert torch.equal(getattr(part, name), getattr(train, name)[[5, 7]])


@pytest.mark.gpu
def test_cuda_gives_the_same_bits(train):
    flip = Augmentation(torch.arange(8) % 3 == 0)
    for here, there in zip(train.batches(3, augment=flip), train.batches(3, "cuda", augment=flip), strict=True):
        assert there.images.is_cuda
        assert there.labels.is_cuda
        assert torch.equal(here.images, there.images.cpu())
        assert torch.equal(here.labels, there.labels.cpu())
        assert torch.equal(here.index, there.index)
