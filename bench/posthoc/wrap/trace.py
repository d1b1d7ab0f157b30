"""What happened in one forward pass: which call made which tensor, and which modules it went through."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_KEPT = 256
"""The end of the network is all that matters here; keeping every activation of a large one would cost memory."""


@dataclass(frozen=True)
class Call:
    """One call of a torch function, in order of its return.

    Attributes:
        index: how many calls came before it.
        name: for example ``linear`` or ``adaptive_avg_pool2d``.
        args: as given.
        kwargs: as given.
        outputs: the tensors it returned.
    """

    index: int
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument, however it was passed."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    @property
    def main(self) -> Tensor | None:
        """The tensor the call is about."""
        found = self.argument(0, "input")
        return found if isinstance(found, Tensor) else None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors it was given, also inside lists."""
        return list(_tensors((*self.args, *self.kwargs.values())))


@dataclass(frozen=True)
class Passage:
    """A tensor that went into or came out of a module."""

    module: str
    side: Literal["output", "input"]
    tensor: Tensor


class Recording(TorchFunctionMode):
    """Records the last calls of one forward pass of ``model``.

    Calls are looked up by the identity of the tensors, latest first: an operation in place returns the tensor that it
    was given, and what matters is who wrote it last before it was read.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._calls: deque[Call] = deque(maxlen=_KEPT)
        self._passages: deque[Passage] = deque(maxlen=_KEPT)
        self._visits: dict[str, int] = {}
        self._count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = tuple(_tensors((result,)))
        if outputs:
            name = getattr(func, "__name__", str(func))
            self._calls.append(Call(self._count, name, tuple(args), dict(kwargs or {}), outputs))
            self._count += 1
        return result

    def run(self, images: Tensor) -> Any:
        """The model's output for the images, recorded."""
        with ExitStack() as hooks:
            for name, module in self._model.named_modules():
                if name:
                    hooks.callback(module.register_forward_pre_hook(self._entered(name)).remove)
                    hooks.callback(module.register_forward_hook(self._left(name)).remove)
            with self:
                return self._model(images)

    def producer(self, tensor: Tensor, before: int | None = None) -> Call | None:
        """The last call before number ``before`` that returned this very tensor; None where there was none."""
        for call in reversed(self._calls):
            if (before is None or call.index < before) and any(output is tensor for output in call.outputs):
                return call
        return None

    def passage(self, tensor: Tensor) -> Passage | None:
        """A module by which this tensor can be seen again: run once, its output rather than its input, outermost."""
        found = [
            passage
            for passage in self._passages
            if passage.tensor is tensor
            # A module used more than once is seen at its last visit.
            and next(p for p in reversed(self._passages) if (p.module, p.side) == (passage.module, passage.side))
            is passage
        ]

        def order(passage: Passage) -> tuple[bool, bool, int]:
            return self._visits[passage.module] > 1, passage.side == "input", passage.module.count(".")

        return min(found, key=order, default=None)

    def parameter(self, tensor: Any) -> str | None:
        """Name of the parameter or buffer that this tensor is, also behind a change of precision."""
        while isinstance(tensor, Tensor):
            for name, known in (*self._model.named_parameters(), *self._model.named_buffers()):
                if known is tensor:
                    return name
            call = self.producer(tensor)
            tensor = call.main if call is not None and call.name in ("float", "to", "type", "type_as") else None
        return None

    def _entered(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._visits[name] = self._visits.get(name, 0) + 1
            if args and isinstance(args[0], Tensor):
                self._passages.append(Passage(name, "input", args[0]))

        return hook

    def _left(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                self._passages.append(Passage(name, "output", output))

        return hook


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
