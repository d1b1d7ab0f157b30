"""The processes that train one cell together, one for each GPU, as torchrun starts them.

Rank 0 owns the cell: it alone claims it, keeps checkpoints, measures and stores. The others wait until it trains
something, build the same from the same seeds, follow through the training (:mod:`bench.training.sharding`) and wait
again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch

from bench.core.errors import CellError, RequestError

_FOREVER = timedelta(days=365)
_WITHIN_A_FIT = timedelta(minutes=30)
# What gloo and NCCL say where another process is gone.
_LOST = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset|refused)|Broken pipe|ProcessGroup")


class FollowerDone(Exception):
    """Ends a fit on all ranks but 0: what the method does after its training is for rank 0 alone."""


class ProcessGroup:
    """This process among those of one cell; without torchrun it is the only one.

    Args:
        rank: its number.
        count: how many there are.
        local: its number on this machine, which is that of its GPU.
        local_count: how many are on each machine.

    Attributes:
        brief: asked by rank 0 what the others are told when something is trained; for JSON.
    """

    def __init__(self, rank: int = 0, count: int = 1, local: int = 0, local_count: int = 1) -> None:
        self.rank, self.count, self.local, self.local_count = rank, count, local, local_count
        self.brief: Callable[[], Mapping[str, Any]] = dict
        self._store: Any = None
        self._trained, self._apart = 0, False

    @classmethod
    def of_torchrun(cls) -> ProcessGroup:
        """What torchrun says in the environment; the only one where it has not started this process."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        return cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))

    def device(self, name: str) -> str:
        """The device of this rank, where the command line says ``name``.

        Raises:
            RequestError: where that is one GPU for all.
        """
        if self.count == 1 or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return name
        if name not in ("auto", "cuda"):
            raise RequestError(f"--device {name}: under torchrun each process has a GPU of its own; write cuda")
        return f"cuda:{self.local}"

    def join(self, device: torch.device) -> None:
        """Meet the others: over gloo, and between GPUs over NCCL."""
        if self.count == 1:
            return
        import torch.distributed as dist
        from torch.distributed.rendezvous import rendezvous

        store, rank, count = next(rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        group = {"store": dist.PrefixStore("group", store), "rank": rank, "world_size": count}
        dist.init_process_group(backend, timeout=_WITHIN_A_FIT, **group)
        self._store = dist.PrefixStore("cell", store)
        if self.rank:
            # They wait in compiled code, where Python would not hear a signal; and they hold nothing.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)

    def orders(self) -> Iterator[dict[str, Any]]:
        """On the others: what rank 0 trains next, until it has ended."""
        while True:
            key = f"order {self._trained}"
            self._store.wait([key], _FOREVER)
            order = json.loads(self._store.get(key))
            if order is None:
                return
            self._apart = True
            yield order
            if self._apart:
                raise CellError(f"rank {self.rank} came to no training where rank 0 did: the fit is not repeatable")

    def leave(self) -> None:
        """This rank's work is done, and on rank 0 nothing more is trained. After half a fit nobody listens."""
        if self.count == 1 or self._apart:
            return
        if self.rank == 0:
            self._order(None)
        import torch.distributed as dist

        dist.destroy_process_group()

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """A fit, to which rank 0 calls the others.

        Raises:
            FollowerDone: at its end, on all others.
            CellError: where another process is gone.
        """
        if self.count == 1:
            yield
            return
        if self.rank == 0:
            self._order(self.brief())
        self._apart = True  # whoever leaves before the end leaves the others behind
        try:
            yield
        except RuntimeError as error:
            if not _LOST.search(str(error)):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise CellError(
                f"another of the {self.count} processes was lost ({reason}); the same command goes on"
            ) from error
        self._apart = False
        self._trained += 1
        if self.rank:
            raise FollowerDone

    def wait(self) -> None:
        """In a fit: until all have come as far as this."""
        if self.count > 1:
            import torch.distributed as dist

            dist.all_reduce(torch.zeros(()))

    def check(self) -> None:
        """Before work is tried once more.

        Raises:
            CellError: where a fit has ended here in the middle, so that the others can no longer follow.
        """
        if self._apart:
            raise CellError(
                f"a fit has failed on rank {self.rank} of {self.count}, which cannot try again alone; the same command "
                "goes on (with one image at a time where memory was short)"
            )

    def first_to_fail(self) -> bool:
        """Whether the reason is here: a rank that fails takes the others with it, and they know less."""
        return not self._apart or self._store.add(f"failed {self._trained}", 1) == 1

    def _order(self, content: Mapping[str, Any] | None) -> None:
        self._store.set(f"order {self._trained}", json.dumps(content))
