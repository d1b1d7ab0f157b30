"""Guard against metrics that change the state that other metrics see: no number of such a cell counts."""

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

# Contents are compared as bit patterns: NaN equals itself, and -0.0 differs from 0.0.
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
    """Tensor (or array) that must not change, by its name in an error."""

    name: str
    tensor: Tensor
    version: int  # torch's count of writes into it
    graph: bool  # whether it requires gradients
    content: Tensor | None  # a copy, if writes are checked that torch does not count

    @classmethod
    def of(cls, name: str, tensor: Tensor, exact: bool) -> _Watched:
        return cls(name, tensor, _version(tensor), tensor.requires_grad, tensor.detach().clone() if exact else None)

    def changed(self, exact: bool) -> bool:
        if _version(self.tensor) != self.version or self.tensor.requires_grad != self.graph:
            return True
        return exact and self.content is not None and not _same(self.tensor, self.content)


class PluginObservation(Observation):
    """View of a batch for a plugin: features and maps are shared with all metrics, attributes and memo are its own."""

    def __init__(self, whole: Observation, memo: dict[object, Any]) -> None:
        vars(self).update(vars(whole), _memo=memo, _whole=whole)

    @property
    def features(self) -> Tensor:
        """Features of the batch, computed once for all metrics."""
        return self._whole.features

    @property
    def own(self) -> Explanation:
        """Explanation by the prototypes of the labels, computed once for all metrics."""
        return self._whole.own


class Guard:
    """Detector of changes by a metric to shared state: the batch, the splits, the model, the process.

    Writes through torch are counted by torch, at no cost. Foreign metrics may write in other ways (through numpy,
    ``.data``): for them, copies are kept and compared after each step. Each foreign metric also draws from random
    generators of its own, so that its numbers do not depend on which others are measured. Copies are compared if
    ``exact``.
    """

    def __init__(self, models: Mapping[str, nn.Module | None], splits: Mapping[str, Samples], exact: bool) -> None:
        self.exact = exact
        self._modules = [
            (f"{name}'s {path}".removesuffix("'s "), module)
            for name, model in models.items()
            if model is not None
            for path, module in model.named_modules()
        ]
        self._holders = [(f"the {name} split", samples) for name, split in splits.items() for samples in _nested(split)]
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
        """Watch the next batch; ``keep``: earlier batches stay watched."""
        self._batch = self._batch if keep else []
        for name in ("images", "labels", "index", "keypoints", "visible", "boxes", "masks"):
            self._watch(self._batch, f"the {name} of its batch", getattr(seen, name))
        seen.made = self._made

    @contextlib.contextmanager
    def step(self, name: str, foreign: bool) -> Iterator[None]:
        """Check one step of a metric.

        Raises:
            CellError: at the end of the context, if the metric has changed shared state.
        """
        exact = foreign and self.exact
        process, state = [read() for _, read, _ in _PROCESS], self._state(exact)
        with self._own_numbers(name) if foreign else contextlib.nullcontext():
            try:
                yield
            finally:
                changed = _restored(process)
        for watched in (*self._batch, *self._lasting):
            if watched.changed(exact):
                changed.append(watched.name)
        if (now := self._state(exact)) != state:
            changed += [key for key in now.keys() | state.keys() if now.get(key) != state.get(key)]
        if changed:
            raise CellError(
                f"{name} changes {min(changed)}, which other metrics see too: let it write into copies and restore "
                f"the settings that it changes, or do so in the model if that writes into its inputs; "
                f"`python -m bench check` prints which of the two does it"
            )
        if foreign:
            for _, module in self._modules:
                for parameter in module.parameters(recurse=False):
                    parameter.grad = None  # left by a backward pass of the plugin

    def _watch(self, watched: list[_Watched], name: str, value: Any) -> None:
        watched += [_Watched.of(name, tensor, self.exact) for tensor in _tensors(value)]

    def _made(self, key: object, value: Any) -> None:
        name = key if isinstance(key, str) else key[0] if isinstance(key, tuple) and key else key
        self._watch(self._batch, f"the shared {name!r} of its batch", value)

    def _state(self, exact: bool) -> dict[str, Any]:
        """Return state besides tensor contents: modes, and for foreign metrics the parts of modules and splits."""
        state: dict[str, Any] = {}
        for name, module in self._modules:
            state[f"the mode of {name}"] = module.training
            if exact:
                # Identities: a metric that replaces a tensor, a submodule or a method changes none of the old contents.
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
        """Give the metric its own states of the global generators, and restore those of the others."""
        outside = generators()
        try:
            if name in self._random:
                _set_generators(self._random[name])
            else:
                seed = derive(0, f"metric {name}")
                torch.manual_seed(seed)
                np.random.seed(seed % 2**32)  # noqa: NPY002 (a plugin may draw from any of them)
                random.seed(seed)
            yield
            self._random[name] = generators()
        finally:
            _set_generators(outside)


def _version(tensor: Tensor) -> int:
    # Writes through torch raise this count.
    return 0 if tensor.is_inference() else tensor._version  # inference tensors have no count


def _same(tensor: Tensor, copy: Tensor) -> bool:
    """Return whether two tensors are equal bit by bit, NaN included."""
    if tensor.shape != copy.shape or tensor.dtype != copy.dtype or tensor.device != copy.device:
        return False
    kind = _INTEGERS.get(tensor.element_size())
    if tensor.layout != torch.strided or kind is None or tensor.is_quantized:
        return bool(torch.equal(tensor, copy))
    return bool(torch.equal(tensor.detach().view(kind), copy.view(kind)))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value, and writable arrays as tensors on the same memory."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, np.ndarray):
        if value.flags.writeable and value.dtype.kind in "biuf":
            with contextlib.suppress(TypeError):  # a dtype that torch does not have
                yield torch.from_numpy(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            if not isinstance(item, str | int | float):
                yield from _tensors(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name, None))


def _nested(samples: Any) -> Iterator[Any]:
    """Yield a split, and the split that it wraps, if any."""
    while samples is not None:
        if hasattr(samples, "__dict__"):
            yield samples
        samples = vars(samples).get("samples") if hasattr(samples, "__dict__") else None


def _restored(process: list[Any]) -> list[str]:
    """Restore process-wide settings that differ from these values of ``_PROCESS``; return the names of those."""
    changed = []
    for (name, read, write), before in zip(_PROCESS, process, strict=True):
        if read() != before:
            changed.append(name)
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
