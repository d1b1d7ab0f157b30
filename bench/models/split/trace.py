"""Trace of one forward pass: the calls that made each tensor, and the modules that it went through."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Only the end of the network matters; keeping every activation of a large one would cost memory.
_KEPT = 256


@dataclass(frozen=True)
class Call:
    """Call of a torch function.

    Attributes:
        index: number of calls that returned before it.
        name: name of the function, for example ``linear`` or ``adaptive_avg_pool2d``.
        args: positional arguments.
        kwargs: keyword arguments.
        outputs: the returned tensors.
    """

    index: int
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument, passed by position or by name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    @property
    def main(self) -> Tensor | None:
        """Return the tensor that the call processes."""
        value = self.argument(0, "input")
        return value if isinstance(value, Tensor) else None

    @property
    def tensors(self) -> list[Tensor]:
        """Return all tensors among the arguments, also inside lists."""
        return list(_tensors((*self.args, *self.kwargs.values())))


@dataclass(frozen=True)
class ModuleTensor:
    """Tensor that is an input or output of a module."""

    module: str
    side: Literal["output", "input"]
    tensor: Tensor


class ForwardTrace(TorchFunctionMode):
    """Recorder of the last calls of one forward pass of ``model``.

    Calls are looked up by the identity of the tensors, latest first: an operation in place returns its input tensor,
    and the last call that wrote it before it was read counts.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._calls: deque[Call] = deque(maxlen=_KEPT)
        self._tensors_seen: deque[ModuleTensor] = deque(maxlen=_KEPT)
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
        """Return the model's output for the images, and record the pass."""
        with ExitStack() as hooks:
            for name, module in self._model.named_modules():
                if name:
                    hooks.callback(module.register_forward_pre_hook(self._entered(name)).remove)
                    hooks.callback(module.register_forward_hook(self._left(name)).remove)
            with self:
                return self._model(images)

    def producer(self, tensor: Tensor, before: int | None = None) -> Call | None:
        """Return the last call before number ``before`` that returned this tensor; None if there is none."""
        for call in reversed(self._calls):
            if (before is None or call.index < before) and any(output is tensor for output in call.outputs):
                return call
        return None

    def capture(self, tensor: Tensor) -> ModuleTensor | None:
        """Return a module that captures this tensor: run once, its output rather than its input, outermost."""
        candidates = [
            captured
            for captured in self._tensors_seen
            if captured.tensor is tensor
            # A hook on a module that is used more than once captures its last visit.
            and next(p for p in reversed(self._tensors_seen) if (p.module, p.side) == (captured.module, captured.side))
            is captured
        ]

        def order(captured: ModuleTensor) -> tuple[bool, bool, int]:
            return self._visits[captured.module] > 1, captured.side == "input", captured.module.count(".")

        return min(candidates, key=order, default=None)

    def parameter(self, tensor: Any) -> str | None:
        """Return the name of the parameter or buffer that this tensor is, also after a change of precision."""
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
                self._tensors_seen.append(ModuleTensor(name, "input", args[0]))

        return hook

    def _left(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                self._tensors_seen.append(ModuleTensor(name, "output", output))

        return hook


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
