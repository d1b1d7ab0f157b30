"""Training of one cell by several processes, one per GPU, as torchrun starts them.

Rank 0 owns the cell: it alone claims it, keeps checkpoints, measures and stores. The others wait until rank 0 trains,
build the same learner from the same seeds, take part in the fit and wait again. Everything that a method computes
before the fit runs on every rank and must therefore follow from the seed; everything after the fit runs on rank 0.

In a training step every rank reads the whole batch and computes the whole loss; only the backbone, which is nearly all
of the work, processes one shard of the images per rank, and its features are gathered on all ranks. So a loss equals
that of a single process, also if it is no mean over images (norms of a batch, mixtures of images, noise on parameters),
and an uneven last batch needs no weights. Batch normalisation inside the backbone takes its statistics over the whole
batch. The remaining differences from a single process are the order of sums and the draws inside a backbone (dropout).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import CellError, RequestError
from bench.core.seeding import derive

# Between fits followers wait as long as rank 0 measures; inside a fit a rank that is silent this long is lost.
_FOREVER = timedelta(days=365)
_WITHIN_A_FIT = timedelta(minutes=30)
# Messages of gloo and NCCL if another process has ended; torch raises them as plain RuntimeError.
_LOST = re.compile(r"gloo|NCCL|[Cc]onnection (closed|reset|refused)|Broken pipe|ProcessGroup")


class FollowerDone(Exception):
    """End of a fit on all ranks but 0: the rest of the method's work is for rank 0 alone."""


class ProcessGroup:
    """This process among those of one cell; without torchrun it is the only one.

    Args:
        rank: number of this process.
        count: number of processes.
        local: number of this process on its machine, which is the number of its GPU.
        local_count: processes per machine.

    Attributes:
        brief: returns the JSON mapping that rank 0 sends to the others when a fit begins.
    """

    def __init__(self, rank: int = 0, count: int = 1, local: int = 0, local_count: int = 1) -> None:
        self.rank, self.count, self.local, self.local_count = rank, count, local, local_count
        self.brief: Callable[[], Mapping[str, Any]] = dict
        self._store: Any = None
        self._fits, self._in_fit = 0, False

    @classmethod
    def of_torchrun(cls) -> ProcessGroup:
        """Return the group that torchrun describes in the environment, or a group of one process."""
        # WORLD_SIZE alone is also set by Slurm and MPI; only torchrun sets this name.
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return cls()
        return cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))

    def device(self, name: str) -> str:
        """Return the device of this rank for the device ``name`` of the command line.

        Raises:
            RequestError: if the name is one GPU for all ranks.
        """
        if self.count == 1 or name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return name
        if name not in ("auto", "cuda"):
            raise RequestError(f"--device {name}: under torchrun each process has a GPU of its own; write cuda")
        return f"cuda:{self.local}"

    def join(self, device: torch.device) -> None:
        """Connect to the other processes: over gloo, and between GPUs over NCCL."""
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
            # Followers wait in compiled code, in which Python handles no signal; they hold nothing to clean up.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)

    def orders(self) -> Iterator[dict[str, Any]]:
        """Yield, on ranks other than 0, the brief of each fit that rank 0 begins, until rank 0 leaves.

        Raises:
            CellError: if this rank reached no fit for an order.
        """
        while True:
            key = f"order {self._fits}"
            self._store.wait([key], _FOREVER)
            order = json.loads(self._store.get(key))
            if order is None:
                return
            self._in_fit = True
            yield order
            if self._in_fit:
                raise CellError(
                    f"rank {self.rank} reached no training although rank 0 did: "
                    "all work before a fit must follow from the seed"
                )

    def leave(self) -> None:
        """Disconnect; rank 0 also ends the orders of the others. Does nothing in a fit that was not finished."""
        # After half a fit the others are blocked in it, and would not receive the end of the orders.
        if self.count == 1 or self._in_fit:
            return
        if self.rank == 0:
            self._order(None)
        import torch.distributed as dist

        # Wrapped networks are in circles of references: left to the end of the interpreter, their threads outlive the
        # group's, and the process may be aborted after its work is done.
        gc.collect()
        dist.destroy_process_group()

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Run a fit on all ranks: rank 0 sends the order for it.

        Raises:
            FollowerDone: at its end, on all ranks but 0.
            CellError: if another process is lost.
        """
        if self.count == 1:
            yield
            return
        if self.rank == 0:
            self._order(self.brief())
        self._in_fit = True  # a rank that leaves before the end leaves the others blocked in a collective operation
        try:
            yield
        except RuntimeError as error:
            if not _LOST.search(str(error)):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise CellError(
                f"another of the {self.count} processes was lost ({reason}); run the same command again to resume"
            ) from error
        self._in_fit = False
        self._fits += 1
        if self.rank:
            # An exception, because methods call `fit` in the middle of their own: it ends them on this rank.
            raise FollowerDone

    def wait(self) -> None:
        """Block, inside a fit, until all ranks have called this."""
        if self.count > 1:
            import torch.distributed as dist

            dist.all_reduce(torch.zeros(()))

    def check(self) -> None:
        """Refuse a retry that the other ranks cannot follow.

        Raises:
            CellError: if a fit has ended on this rank before its end.
        """
        if self._in_fit:
            raise CellError(
                f"a fit has failed on rank {self.rank} of {self.count}, which cannot try again alone; run the same "
                "command again to resume (with one image at a time if memory was short)"
            )

    def first_to_fail(self) -> bool:
        """Return whether the cause of the failure is on this rank: a failing rank makes the others fail after it."""
        return not self._in_fit or self._store.add(f"failed {self._fits}", 1) == 1

    def _order(self, content: Mapping[str, Any] | None) -> None:
        self._store.set(f"order {self._fits}", json.dumps(content))


class _Sum(torch.autograd.Function):
    """Sum over the ranks; its gradient is the sum over the ranks as well, since each has a copy of the loss.

    Behind the backbone each rank has the gradient of the whole loss, and inside the backbone that of its shard times
    the number of ranks, because this sum adds up the gradients of all copies of the loss. The mean over the ranks,
    which DDP takes, is then right for both.
    """

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return _all_reduced(x)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _all_reduced(gradient)


def _all_reduced(x: Tensor) -> Tensor:
    import torch.distributed as dist

    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def gather_rows(rows: Tensor, before: int, after: int) -> Tensor:
    """Concatenate the rows of all ranks on each rank, with gradients: ``(before + n + after, ...)``.

    Args:
        rows: ``(n, ...)`` of this rank.
        before: number of rows of lower ranks.
        after: number of rows of higher ranks.
    """
    # Padded and summed instead of all_gather: ranks have different n. All ranks but one add zeros, so this is exact.
    whole = nn.functional.pad(_at_least_single(rows), [0, 0] * (rows.ndim - 1) + [before, after])
    summed: Tensor = _Sum.apply(whole)
    return summed.to(rows.dtype)


class ShardedBackbone:
    """Context in which the backbone of a learner computes one shard of the images on each rank.

    The backbone is the module that the learner or its model has under that name; a learner without one is trained
    whole on every rank, which is right but no faster.
    """

    def __init__(self, learner: nn.Module, group: ProcessGroup) -> None:
        self.learner, self.group = learner, group
        self.calls, self.in_shard = 0, False
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> ShardedBackbone:
        if self.group.count == 1:
            return self
        # DDP waits for the gradients of all its outputs, and only the loss has any.
        only_the_loss = self.learner.register_forward_hook(
            lambda _module, _inputs, losses: {
                name: value if name == "loss" else value.detach() for name, value in losses.items()
            }
        )
        self._undo.callback(only_the_loss.remove)
        for backbone in backbones(self.learner):
            self._undo.enter_context(replaced_forward(backbone, partial(self._backbone, backbone.forward)))
            for norm in backbone.modules():
                if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                    self._undo.enter_context(replaced_forward(norm, partial(self._norm, norm, norm.forward)))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _backbone(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        n, rank, count = len(images), self.group.rank, self.group.count
        if n < count:
            return forward(images)  # on every rank, with the gradient of all
        first, last = n * rank // count, n * (rank + 1) // count
        self.calls += 1
        # Draws in the backbone must not shift those of the loss, which are the same on all ranks.
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            torch.manual_seed(derive(int(torch.randint(2**62, ())), "backbone", self.calls, rank))
            self.in_shard = True
            try:
                features = forward(images[first:last])
            finally:
                self.in_shard = False
        return gather_rows(features, first, n - last)

    def _norm(self, norm: nn.modules.batchnorm._BatchNorm, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not self.in_shard or not (norm.training or norm.running_mean is None):
            return forward(x)
        single = _at_least_single(x)
        variances, means = torch.var_mean(single, [0, *range(2, x.ndim)], correction=0)
        moments = torch.cat([means, variances, means.new_full((1,), x.numel() / x.shape[1])])
        rows = gather_rows(moments[None], self.group.rank, self.group.count - 1 - self.group.rank)
        means, variances, counts = rows.split([x.shape[1], x.shape[1], 1], dim=1)
        # Mean and variance of the union of shards: the variance is that within plus that between them.
        n = counts.sum()
        mean = (counts * means).sum(0) / n
        variance = (counts * (variances + (means - mean).square())).sum(0) / n
        # torch normalises by the biased variance and tracks the unbiased one.
        _track(norm, mean.detach(), (variance * n / (n - 1)).detach())
        scale = (variance + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
        shift = (0 if norm.bias is None else norm.bias) - mean * scale
        shape = [1, -1] + [1] * (x.ndim - 2)
        return torch.addcmul(shift.view(shape), single, scale.view(shape)).to(x.dtype)


def _at_least_single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@torch.no_grad()
def _track(norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics as torch does."""
    if not norm.training or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    # momentum=None in torch: a cumulative average over all batches.
    momentum = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    for running, current in ((norm.running_mean, mean), (norm.running_var, variance)):
        running.mul_(1 - momentum).add_(current, alpha=momentum)


@contextlib.contextmanager
def replaced_forward(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the ``forward`` of this one module inside the context, and restore it afterwards."""
    before = vars(module).get("forward")  # of the instance, if it was replaced already; not that of the class
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def backbones(learner: nn.Module) -> list[nn.Module]:
    """Return the modules named ``backbone``, without those inside another one.

    Example:
        >>> model = nn.Module()
        >>> model.backbone = nn.Sequential(nn.Linear(1, 1))
        >>> backbones(model) == [model.backbone]
        True
    """
    named = [(f"{name}.", module) for name, module in learner.named_modules() if name.split(".")[-1] == "backbone"]
    return [module for name, module in named if not any(name != o and name.startswith(o) for o, _ in named)]
