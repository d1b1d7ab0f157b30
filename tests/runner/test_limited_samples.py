"""A guarded split: the same images in the same order, never more at a time, ended by its check."""

import copy

import pytest
import torch

from bench.runner.limits import LimitedSamples
from tests.support.samples import stripes


def test_the_same_images_in_smaller_batches():
    samples = stripes()
    guarded = LimitedSamples(samples, 5, lambda: None)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))

    def darker(images, where):
        return images - where[:, None, None, None] / 10

    batches = list(guarded.batches(16, index=order, augment=darker))
    whole = next(iter(samples.batches(len(samples), index=order, augment=darker)))
    assert max(len(batch.labels) for batch in batches) == 5
    for name in ("images", "labels", "index"):
        assert torch.equal(torch.cat([getattr(batch, name) for batch in batches]), getattr(whole, name))
    assert (len(guarded), guarded.classes, guarded.size) == (len(samples), samples.classes, samples.size)
    assert len(copy.copy(guarded)) == len(samples)


def test_as_many_as_asked_for_where_nothing_is_said():
    assert [len(batch.labels) for batch in LimitedSamples(stripes(), None, lambda: None).batches(20)] == [20, 16]


def test_the_check_is_called_before_each_batch_and_after_the_last():
    calls = []

    def check():
        calls.append(len(calls))
        if len(calls) == 5:
            raise MemoryError

    guarded = LimitedSamples(stripes(), 12, check)
    assert len(list(guarded.batches(64))) == 3
    assert len(calls) == 4
    with pytest.raises(MemoryError):
        next(guarded.batches(64))
