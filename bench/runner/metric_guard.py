"""What all metrics of a cell look at, and which of them changed it: then no number of that cell counts."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.contract import CellError, Explanation, Observation, Samples
from bench.core.seeding import derive

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CUDNN = ("enabled", "benchmark", "deterministic", "allow_tf32")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS if hasattr(nn.modules.module, f"_global{name}"))

_PROCESS: tuple[tuple[str, Callable[[], Any], Callable[[Any], object] | None], ...] = (
    ("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    ("torch's default device", torch.get_default_device, lambda _: torch.set_default_device(None)),
    ("whether gradients are kept", torch.is_grad_enabled, torch.set_grad_enabled),
    ("inference mode", torch.is_inference_mode_enabled, None),
    ("autocast", lambda: (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")), None),
    (
        "whether algorithms are deterministic",
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
    ),
    (
        "cuDNN's flags",
        lambda: [getattr(torch.backends.cudnn, name) for name in _CUDNN],
        lambda value: _set_cudnn(value),
    ),
    ("the precision of float32", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    ("the number of threads", torch.get_num_threads, torch.set_num_threads),
    ("hooks on all modules", lambda: [len(getattr(nn.modules.module, name)) for name in _GLOBAL_HOOKS], None),
    ("the working directory", os.getcwd, os.chdir),
)


@dataclass
class _Watched:
    """A tensor (or array) that must stay as it is.

    Attributes:
        what: its name in an error.
        tensor: itself.
        version: torch's count of writes into it.
        graph: whether gradients with regard to it are kept.
        content: a copy, where writes that torch does not count are looked for too.
    """

    what: str
    tensor: Tensor
    version: int
    graph: bool
    content: Tensor | None

    @classmethod
    def of(cls, what: str, tensor: Tensor, exact: bool) -> _Watched:
        return cls(what, tensor, _version(tensor), tensor.requires_grad, tensor.detach().clone() if exact else None)

    def changed(self, exact: bool) -> bool:
        if _version(self.tensor) != self.version or self.tensor.requires_grad != self.graph:
            return True
        return exact and self.content is not None and not _same(self.tensor, self.content)


class PluginObservation(Observation):
    """A batch as a plugin sees it: features and own maps are everyone's; what it sets or keeps by a key is its own.

    Args:
        whole: the batch.
        memo: what the plugin's metrics share.
    """

    def __init__(self, whole: Observation, memo: dict[object, Any]) -> None:
        vars(self).update(vars(whole), _memo=memo, _whole=whole)

    @property
    def features(self) -> Tensor:
        """Everyone's."""
        return self._whole.features

    @property
    def own(self) -> Explanation:
        """Everyone's."""
        return self._whole.own


class Guard:
    """Finds what a metric changes of what others see: the batch, the splits, the model, the process.

    Writes through torch are counted by torch, which costs nothing. Foreign metrics may write in other ways (through
    numpy, ``.data``): where there are any, copies are kept and compared after each of their turns. They also draw
    their random numbers each from a generator of its own, so that none depends on which others are measured.

    Args:
        models: the model that is measured, and the black box, by the name that an error gives them.
        splits: the samples that metrics are given, likewise.
        exact: whether there are foreign metrics.
    """

    def __init__(self, models: Mapping[str, nn.Module | None], splits: Mapping[str, Samples], exact: bool) -> None:
        self.exact = exact
        self._modules = [
            (f"{name}'s {path}".removesuffix("'s "), module)
            for name, model in models.items()
            if model is not None
            for path, module in model.named_modules()
        ]
        self._holders = [(f"the {name} split", one) for name, split in splits.items() for one in _nested(split)]
        self._lasting: list[_Watched] = []
        for name, module in self._modules:
            for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                self._watch(self._lasting, f"{key} of {name}", tensor)
        for name, holder in self._holders:
            for key, value in vars(holder).items():
                self._watch(self._lasting, f"{key} of {name}", value)
        self._batch: list[_Watched] = []
        self._random: dict[str, tuple[Any, ...]] = {}

    def batch(self, seen: Observation, keep: bool = False) -> None:
        """From now on it is this batch that metrics look at; ``keep``: and none before may change either."""
        self._batch = self._batch if keep else []
        for name in ("images", "labels", "index", "keypoints", "visible", "boxes"):
            self._watch(self._batch, f"the {name} of its batch", getattr(seen, name))
        seen.made = self._made

    @contextlib.contextmanager
    def turn(self, name: str, foreign: bool) -> Iterator[None]:
        """While it is entered the metric of that name works.

        Raises:
            CellError: naming the metric and what it has changed, at the end.
        """
        exact = foreign and self.exact
        process, state = [read() for _, read, _ in _PROCESS], self._state(exact)
        with self._own_numbers(name) if foreign else contextlib.nullcontext():
            try:
                yield
            finally:
                changed = _restored(process)
        for one in (*self._batch, *self._lasting):
            if one.changed(exact):
                changed.append(one.what)
        if (now := self._state(exact)) != state:
            changed += [what for what in now.keys() | state.keys() if now.get(what) != state.get(what)]
        if changed:
            raise CellError(
                f"{name} changes {min(changed)}, which other metrics see too: let it write into copies and put back "
                f"what it sets, or do so in the model where that writes into what it is shown; `python -m bench check` "
                "tells which"
            )
        if foreign:
            for _, module in self._modules:
                for parameter in module.parameters(recurse=False):
                    parameter.grad = None

    def _watch(self, where: list[_Watched], what: str, value: Any) -> None:
        where += [_Watched.of(what, tensor, self.exact) for tensor in _tensors(value)]

    def _made(self, key: object, value: Any) -> None:
        name = key if isinstance(key, str) else key[0] if isinstance(key, tuple) and key else key
        self._watch(self._batch, f"the shared {name!r} of its batch", value)

    def _state(self, exact: bool) -> dict[str, Any]:
        """What is not content: modes, and for foreign metrics all of which modules and splits consist."""
        state: dict[str, Any] = {}
        for name, module in self._modules:
            state[f"the mode of {name}"] = module.training
            if exact:
                parts = (module._parameters, module._buffers, module._modules)
                state[f"the parts of {name}"] = [(key, id(value)) for part in parts for key, value in part.items()]
                state[f"hooks of {name}"] = [list(getattr(module, hooks)) for hooks in _HOOKS]
                kind = type(module)
                state[f"the code of {name}"] = {
                    key: id(value) for key, value in vars(module).items() if callable(getattr(kind, key, None))
                }
        if exact:
            for name, holder in self._holders:
                for key, value in vars(holder).items():
                    state[f"{key} of {name}"] = list(value) if isinstance(value, list) else id(value)
        return state

    @contextlib.contextmanager
    def _own_numbers(self, name: str) -> Iterator[None]:
        """Draws from the global generators go on where this metric left them, and others' are as they were."""
        outside = generators()
        try:
            if name in self._random:
                _set_generators(self._random[name])
            else:
                seed = derive(0, f"metric {name}")
                torch.manual_seed(seed)
                np.random.seed(seed % 2**32)  # noqa: NPY002 (whatever a plugin draws from)
                random.seed(seed)
            yield
            self._random[name] = generators()
        finally:
            _set_generators(outside)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # inference tensors have no count


def _same(tensor: Tensor, copy: Tensor) -> bool:
    """Whether two tensors are equal bit by bit: NaN, too, is equal to itself."""
    if tensor.shape != copy.shape or tensor.dtype != copy.dtype or tensor.device != copy.device:
        return False
    kind = _INTEGERS.get(tensor.element_size())
    if tensor.layout != torch.strided or kind is None or tensor.is_quantized:
        return bool(torch.equal(tensor, copy))
    return bool(torch.equal(tensor.detach().view(kind), copy.view(kind)))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, and writable arrays as tensors on the same memory."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, np.ndarray):
        if value.flags.writeable and value.dtype.kind in "biuf":
            with contextlib.suppress(TypeError):  # a dtype that torch has not
                yield torch.from_numpy(value)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            if not isinstance(one, str | int | float):
                yield from _tensors(one)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name, None))


def _nested(samples: Any) -> Iterator[Any]:
    """A split, and the one that it reads within limits, if it does."""
    while samples is not None:
        if hasattr(samples, "__dict__"):
            yield samples
        samples = vars(samples).get("samples") if hasattr(samples, "__dict__") else None


def _restored(process: list[Any]) -> list[str]:
    """Put back what is otherwise now than in these values of ``_PROCESS``, and tell what that was."""
    changed = []
    for (what, read, write), before in zip(_PROCESS, process, strict=True):
        if read() != before:
            changed.append(what)
            if write is not None:
                write(before)
    return changed


def _set_cudnn(flags: list[bool]) -> None:
    for name, flag in zip(_CUDNN, flags, strict=True):
        setattr(torch.backends.cudnn, name, flag)


def generators() -> tuple[Any, ...]:
    """Return the states of the global generators: torch's on the CPU and on GPUs, numpy's and Python's."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()  # noqa: NPY002


def _set_generators(state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
    np.random.set_state(state[2])  # noqa: NPY002
    random.setstate(state[3])
