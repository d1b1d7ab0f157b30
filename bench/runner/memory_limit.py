"""Memory limit of a cell: checks between batches, and a retry with batch size 1 after out of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.contract import Batch, Progress, RequestError, Samples
from bench.core.compat import give_back_free_memory
from bench.core.files import read_json, write_json
from bench.core.memory import AllocationFailure, OutOfMemory, PeakMemory, format_bytes, is_out_of_memory, memory_limit

# Stage whose result other cells share: it is never retried with another batch size than planned.
SHARED = "black box"


class OomRetry:
    """Retry after out of memory: at most two attempts, the second with batch size 1.

    As in the paper, section 4.3: "OOM indicates the out of memory error even with batch size 1". The file ``note``
    records a failed first attempt, should the second be killed; ``planned`` is the batch size by stage, and the limit
    is in bytes, of the GPU or of the process on a CPU.

    Attributes:
        stage: present stage, for the message of a failure; set by the work.
        most: largest batch size of this attempt; ``None``: as planned.
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
        """Run the work, and again with batch size 1 if it does not fit into memory.

        The work resumes from finished parts of an earlier attempt; ``start_over`` discards them, since parts must not
        be of different batch sizes.

        Raises:
            OutOfMemory: if neither attempt fits.
        """
        first = self._before(start_over)
        if first is not None:
            self.progress.note("did not fit into memory before: one image at a time")
        else:
            first = self._attempt(work, None)
            if first is None:
                return
            # Another batch size would give another black box than the cells that share it were planned for.
            if first.stage == SHARED:
                raise OutOfMemory([first])
            self.progress.note(f"out of memory in {first}; trying again with one image at a time")
            start_over()
            # Written before the second attempt: should that be killed, the next run does not repeat the first.
            write_json(self.note, asdict(first))
        second = self._attempt(work, 1)
        if second is not None:
            start_over()
            self.note.unlink()
            raise OutOfMemory([first, second])

    def once(self, work: Callable[[], None]) -> None:
        """Run work that other cells share, with the planned batch size only.

        Raises:
            OutOfMemory: if it does not fit.
        """
        overrun = self._attempt(work, None)
        if overrun is not None:
            raise OutOfMemory([overrun])

    def _before(self, start_over: Callable[[], None]) -> AllocationFailure | None:
        """Return the recorded overrun of an earlier attempt within the same limit; drop one within another limit."""
        if not self.note.is_file():
            return None
        try:
            overrun = AllocationFailure(**read_json(self.note))
        except (TypeError, RequestError) as error:
            self.progress.note(f"{self.note} is damaged ({error}): starts over as planned")
            start_over()
            self.note.unlink()
            return None
        if overrun.limit_bytes == self.limit:
            return overrun
        limit = f"{format_bytes(overrun.limit_bytes)} of memory" if overrun.limit_bytes else "all the memory there was"
        self.progress.note(f"did not fit into {limit} before, and the limit is another now: starts over as planned")
        start_over()
        self.note.unlink()
        return None

    @property
    def part(self) -> int:
        """Bytes for the features that a fit gathers; the rest of the limit is for the network and its activations."""
        # The more classes a GPU decomposes at a time, the fewer kernels it is asked for; a CPU gains nothing by more.
        cuda = self.device.type == "cuda"
        most = torch.cuda.get_device_properties(self.device).total_memory // 4 if cuda else 2**30
        return min(most, self.limit // 4) if self.limit else most

    def guarded(self, split: Samples, capped: bool = True) -> Samples:
        """Limit a split to the batch size of this attempt, and check the memory limit before each batch."""
        # On a CPU the limit is checked between batches, and the kernel refuses only allocations far beyond it
        # (`memory_limit`): compiled code does not survive its own failed allocations.
        return LimitedSamples(split, self.most if capped else None, lambda: self._peak.check(self.limit))

    def record(self) -> dict[str, Any]:
        """Return peak and limit in bytes for the result, and the overrun of a first attempt (``retry``).

        Raises:
            OverLimit: if the peak exceeds the limit.
        """
        self._peak.check(self.limit)
        return {
            "peak_bytes": self._peak.most,
            "limit_bytes": self.limit,
            "retry": read_json(self.note) if self.note.is_file() else None,
        }

    def _attempt(self, work: Callable[[], None], most: int | None) -> AllocationFailure | None:
        """Run the work; return its overrun of memory, or ``None``."""
        self.most, self.stage = most, "reading the data"
        failed = None
        with PeakMemory(self.device) as self._peak:
            try:
                with memory_limit(self.device, self.limit):
                    work()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                batch_size = self.most or self.planned.get(self.stage)
                # The error itself is dropped: it holds the tensors of all its frames.
                failed = AllocationFailure.of(error, self.stage, batch_size, self._peak.most, self.limit)
        give_back_free_memory()
        return failed


class LimitedSamples:
    """Split whose batches have a largest size, with a check before each.

    ``check`` is called before each batch and after the last; it raises to end the reading.
    """

    def __init__(self, samples: Samples, most: int | None, check: Callable[[], None]) -> None:
        self.samples, self.most, self.check = samples, most, check

    def __getattr__(self, name: str) -> Any:
        if name == "samples":  # not set yet while a copy is being made
            raise AttributeError(name)
        return getattr(self.samples, name)

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self, batch_size: int, device: torch.device | str = "cpu", **how: Any) -> Iterator[Batch]:
        """Yield the batches of the split, of at most ``most`` images."""
        for batch in self.samples.batches(min(batch_size, self.most or batch_size), device, **how):
            self.check()
            yield batch
        self.check()
