"""One training step on several ranks: each sends its share of the images through the backbone.

Every rank reads the whole batch and computes the whole loss; only the backbone, which is nearly all of the work, sees a
part of the images, and what comes out is put together. So a loss is what it is in one process, also where it is no
mean over images (norms of a batch, mixtures of images, noise on parameters), and an uneven last batch needs no weights.
Batch normalisation inside the backbone takes its statistics over the whole batch. What differs from one process is the
order of sums, and what a backbone draws by itself (dropout).

Gradients: each rank has those of the whole loss behind the backbone, and inside it its share's, times the number of
ranks, because :class:`_Sum` adds up those of all copies of the loss. Their mean, which DDP takes, is right for both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.seeding import derive
from bench.training.distributed import ProcessGroup


class _Sum(torch.autograd.Function):
    """The sum over the ranks; its gradient is the sum over the ranks as well, since each has a copy of the loss."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _summed(gradient)


def _summed(x: Tensor) -> Tensor:
    import torch.distributed as dist

    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def together(own: Tensor, before: int, after: int) -> Tensor:
    """``(n, ...)`` of each rank, one behind the other, on all of them: ``(before + n + after, ...)``.

    Args:
        own: this rank's rows.
        before: rows of the ranks before it.
        after: rows of those behind it.
    """
    whole = nn.functional.pad(_at_least_single(own), [0, 0] * (own.ndim - 1) + [before, after])
    summed: Tensor = _Sum.apply(whole)  # all but one rank add zeros: exact
    return summed.to(own.dtype)


class ShardedBackbone:
    """While it is entered, a learner's backbone computes each rank's share.

    The backbone is whatever module the learner or its model has under that name; a learner without one is trained
    whole on every rank, which is right but no faster.

    Args:
        learner: in training.
        ranks: who shares.
    """

    def __init__(self, learner: nn.Module, ranks: ProcessGroup) -> None:
        self.learner, self.ranks = learner, ranks
        self.calls, self.apart = 0, False
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> ShardedBackbone:
        if self.ranks.count == 1:
            return self
        # DDP waits for the gradients of all that it is given, and only the loss has any.
        only_the_loss = self.learner.register_forward_hook(
            lambda _module, _inputs, losses: {
                name: value if name == "loss" else value.detach() for name, value in losses.items()
            }
        )
        self._undo.callback(only_the_loss.remove)
        for backbone in backbones(self.learner):
            self._undo.enter_context(replaced(backbone, partial(self._backbone, backbone.forward)))
            for norm in backbone.modules():
                if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                    self._undo.enter_context(replaced(norm, partial(self._norm, norm, norm.forward)))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _backbone(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        n, rank, count = len(images), self.ranks.rank, self.ranks.count
        if n < count:
            return forward(images)  # on every rank, with the gradient of all
        first, last = n * rank // count, n * (rank + 1) // count
        self.calls += 1
        # What the backbone draws must not move what the loss draws, which is the same on all ranks.
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            torch.manual_seed(derive(int(torch.randint(2**62, ())), "backbone", self.calls, rank))
            self.apart = True
            try:
                own = forward(images[first:last])
            finally:
                self.apart = False
        return together(own, first, n - last)

    def _norm(self, norm: nn.modules.batchnorm._BatchNorm, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not self.apart or not (norm.training or norm.running_mean is None):
            return forward(x)
        single = _at_least_single(x)
        variances, means = torch.var_mean(single, [0, *range(2, x.ndim)], correction=0)
        own = torch.cat([means, variances, means.new_tensor([x.numel() / x.shape[1]])])
        rows = together(own[None], self.ranks.rank, self.ranks.count - 1 - self.ranks.rank)
        means, variances, counts = rows.split([x.shape[1], x.shape[1], 1], dim=1)
        n = counts.sum()
        mean = (counts * means).sum(0) / n
        variance = (counts * (variances + (means - mean).square())).sum(0) / n
        _track(norm, mean.detach(), (variance * n / (n - 1)).detach())
        scale = (variance + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
        shift = (0 if norm.bias is None else norm.bias) - mean * scale
        shape = [1, -1] + [1] * (x.ndim - 2)
        return torch.addcmul(shift.view(shape), single, scale.view(shape)).to(x.dtype)


def _at_least_single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@torch.no_grad()
def _track(norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics, as torch does."""
    if not norm.training or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    for running, now in ((norm.running_mean, mean), (norm.running_var, variance)):
        running.mul_(1 - share).add_(now, alpha=share)


@contextlib.contextmanager
def replaced(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While it is entered, this one module computes something else; then what it did before, itself replaced or not."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def backbones(learner: nn.Module) -> list[nn.Module]:
    """The modules called ``backbone``, without those inside another one."""
    named = [(f"{name}.", module) for name, module in learner.named_modules() if name.split(".")[-1] == "backbone"]
    return [module for name, module in named if not any(name != o and name.startswith(o) for o, _ in named)]
