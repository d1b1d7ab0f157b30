"""Memory limit of a cell: splits that are read within it, and a retry with one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.contract import Batch, Progress, RequestError, Samples
from bench.core.allocator import give_back_free_memory
from bench.core.memory import OutOfMemory, Overrun, PeakMemory, is_out_of_memory, limited, said
from bench.results.store import Store, write_json

SHARED = "black box"
"""The stage whose result other cells use too: it is not tried in another way than planned."""


class OomRetry:
    """Two at most, as in the paper (4.3: "OOM indicates the out of memory error even with batch size 1").

    Args:
        device: whose memory.
        limit: bytes of the GPU, or of the process on a CPU; ``None``: all there is.
        note: file that remembers, should the second attempt be killed, that the first did not fit.
        planned: batch size of the stages where it says something.
        progress: where it is told.

    Attributes:
        stage: what is being done, for whoever reads of a failure; the work sets it.
        most: images at a time; ``None``: as planned.
    """

    def __init__(
        self,
        device: torch.device,
        limit: int | None,
        note: Path,
        planned: Mapping[str, int | None],
        progress: Progress,
    ) -> None:
        self.device, self.limit, self.note, self.planned, self.progress = device, limit, note, planned, progress
        self.stage = "starting"
        self.most: int | None = None
        self._peak = PeakMemory(device)

    def run(self, work: Callable[[], None], start_over: Callable[[], None]) -> None:
        """Do the work.

        Args:
            work: all of it; it goes on from what an earlier attempt has finished.
            start_over: forgets what is half done, whose parts must not be of different batch sizes.

        Raises:
            OutOfMemory: where neither attempt fits.
        """
        first = self._before(start_over)
        if first is not None:
            self.progress.note("did not fit into memory before: one image at a time")
        else:
            found = self._attempt(work, None)
            if found is None:
                return
            if found.stage == SHARED:
                raise OutOfMemory([found])
            first = found
            self.progress.note(f"out of memory in {first}; once more with one image at a time")
            start_over()
            write_json(self.note, asdict(first))
        second = self._attempt(work, 1)
        if second is not None:
            start_over()
            self.note.unlink()
            raise OutOfMemory([first, second])

    def once(self, work: Callable[[], None]) -> None:
        """Do work that other cells use too: as planned, or not at all.

        Raises:
            OutOfMemory: where it does not fit.
        """
        found = self._attempt(work, None)
        if found is not None:
            raise OutOfMemory([found])

    def _before(self, start_over: Callable[[], None]) -> Overrun | None:
        """What did not fit within this limit before; what did not fit within another one says nothing of this one."""
        if not self.note.is_file():
            return None
        try:
            found = Overrun(**Store.read(self.note))
        except (TypeError, RequestError) as error:
            self.progress.note(f"{self.note} is damaged ({error}): starts over as planned")
            start_over()
            self.note.unlink()
            return None
        if found.limit_bytes == self.limit:
            return found
        limit = f"{said(found.limit_bytes)} of memory" if found.limit_bytes else "all the memory there was"
        self.progress.note(f"did not fit into {limit} before, and the limit is another now: starts over as planned")
        start_over()
        self.note.unlink()
        return None

    @property
    def part(self) -> int:
        """Bytes for what a fit gathers; the rest of the limit is for the network and what else it holds."""
        return min(2**30, self.limit // 4) if self.limit else 2**30

    def guarded(self, split: Samples, capped: bool = True) -> Samples:
        """The split, in batches of as many images as this attempt allows, each given out only within the limit."""
        return LimitedSamples(split, self.most if capped else None, lambda: self._peak.check(self.limit))

    def record(self) -> dict[str, Any]:
        """For the result: peak and limit in bytes, and what the first attempt ended with where there were two.

        Raises:
            OverLimit: as between batches.
        """
        self._peak.check(self.limit)
        return {
            "peak_bytes": self._peak.most,
            "limit_bytes": self.limit,
            "retry": Store.read(self.note) if self.note.is_file() else None,
        }

    def _attempt(self, work: Callable[[], None], most: int | None) -> Overrun | None:
        """What did not fit, or ``None``. The error itself is let go: it holds the tensors of all its frames."""
        self.most, self.stage = most, "reading the data"
        failed = None
        with PeakMemory(self.device) as self._peak:
            try:
                with limited(self.device, self.limit):
                    work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                batch_size = self.most or self.planned.get(self.stage)
                failed = Overrun.of(error, self.stage, batch_size, self._peak.most, self.limit)
        give_back_free_memory()
        return failed


class LimitedSamples:
    """The same split for whoever reads it (training, projection, evaluation), in batches that are not too large.

    Args:
        samples: the split.
        most: images at a time; ``None``: as many as are asked for.
        check: called before each batch is given out and after the last; it raises to end the reading.
    """

    def __init__(self, samples: Samples, most: int | None, check: Callable[[], None]) -> None:
        self.samples, self.most, self.check = samples, most, check

    def __getattr__(self, name: str) -> Any:
        if name == "samples":  # not there yet while a copy is being made
            raise AttributeError(name)
        return getattr(self.samples, name)

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self, batch_size: int, device: torch.device | str = "cpu", **how: Any) -> Iterator[Batch]:
        """As the split's own, of at most ``most`` images."""
        for batch in self.samples.batches(min(batch_size, self.most or batch_size), device, **how):
            self.check()
            yield batch
        self.check()
