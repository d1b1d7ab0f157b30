"""Limits of a cell: batches of a split, and a second attempt only within the memory that the first did not fit into."""

import copy

import pytest
import torch

from bench.core.memory import OutOfMemory
from bench.runner.memory_limit import SHARED, LimitedSamples, OomRetry
from tests.support.samples import Killed, Silent, stripes

GIB = 2**30


class Work:
    """Does not fit at more than so many images at a time; dies in what would fit, where it is told to."""

    def __init__(self, folder, limit, fits_at=1, dies=False):
        self.progress = Silent()
        note = folder / "retry.json"
        self.attempts = OomRetry(torch.device("cpu"), limit, note, {"fit": 32}, self.progress)
        self.fits_at, self.dies, self.tried, self.started_over = fits_at, dies, [], 0

    def run(self):
        self.attempts.run(self._work, self._start_over)
        return self

    def _work(self):
        self.attempts.stage = "fit"
        images = self.attempts.most or 32
        self.tried.append(images)
        if images > self.fits_at:
            raise MemoryError
        if self.dies:
            raise Killed

    def _start_over(self):
        self.started_over += 1


@pytest.fixture
def killed(tmp_path):
    """The folder of a second attempt within 64 GiB that was killed."""
    with pytest.raises(Killed):
        Work(tmp_path, 64 * GIB, dies=True).run()
    assert (tmp_path / "retry.json").is_file()
    return tmp_path


def test_killed_second_attempt_resumes_within_the_same_limit(killed):
    again = Work(killed, 64 * GIB).run()
    assert (again.tried, again.started_over) == ([1], 0)
    assert again.attempts.record()["retry"]["limit_bytes"] == 64 * GIB


@pytest.mark.parametrize("limit", [None, 128 * GIB])
def test_another_limit_begins_with_planned_batches(killed, limit):
    again = Work(killed, limit, fits_at=32).run()
    assert (again.tried, again.started_over) == ([32], 1)
    assert again.attempts.record()["retry"] is None
    assert "did not fit into 64.0 GiB of memory before" in again.progress.notes[0]


def test_too_large_within_another_limit_is_tried_twice_again(killed):
    again = Work(killed, None).run()
    assert again.tried == [32, 1]
    assert again.attempts.record()["retry"]["limit_bytes"] is None


def test_shared_stage_is_tried_once_and_leaves_no_note(tmp_path):
    shared = Work(tmp_path, None)

    def black_box():
        shared.attempts.stage = SHARED
        raise MemoryError

    with pytest.raises(OutOfMemory) as caught:
        shared.attempts.once(black_box)
    assert [one.stage for one in caught.value.overruns] == [SHARED]
    assert not (tmp_path / "retry.json").exists()


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


def test_check_runs_before_each_batch_and_after_the_last():
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
