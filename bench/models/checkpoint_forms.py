"""Weights inside what training scripts write: containers, prefixes of wrappers, averaged copies, numbers beside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.contract import RequestError

Tensors = dict[str, Tensor]

# Prefixes of classification heads.
HEADS = ("fc.", "classifier.", "head.", "heads.")

# Names of containers that hold the state of a training, no network.
_TRAINING = re.compile(
    r"optim|sched|scaler|^amp$|callbacks|hyper_?param|^hparams|^args$|^config|^loops$|loss|criterion"
)

# Names of copies that a training keeps beside the network that it trains.
_AVERAGED = re.compile(r"(^|[._-])(ema|averag|swa|teacher|momentum)", re.IGNORECASE)

# Prefixes by data parallelism, ``torch.compile`` and frameworks; others are found by the names that follow them.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")

# Tensors of losses, metrics and counters, which some training scripts keep among the network's.
_BESIDE = re.compile(r"^(criterion|loss\w*|metrics?|(train|val|test)_\w+|n_averaged)(\.|$)|(^|\.)total_(ops|params)$")


@dataclass(frozen=True)
class Reading:
    """One way to read a network from a checkpoint.

    Attributes:
        path: of the dictionary that holds it, such as ``state.model``; ``""``: the file's own.
        prefix: what is taken off its names.
        tensors: names without the prefix, and behind them what has none, as far as names do not collide.
        outside: names of the latter.
        others: entries of the dictionary that are no tensors.
        fit: how many tensors the network has under the right name in the right shape.
    """

    path: str
    prefix: str
    tensors: Tensors
    outside: frozenset[str]
    others: tuple[str, ...]
    fit: int

    def beside(self, other: Reading) -> str:
        """What to write behind ``FILE#`` for this one and not the other."""
        return self.prefix.rstrip(".") if self.path == other.path else self.path or self.prefix.rstrip(".")

    @property
    def averaged(self) -> bool:
        """Whether it is a copy that was not trained itself."""
        return bool(_AVERAGED.search(f"{self.path}.{self.prefix}"))


def choose(
    content: Any,
    part: str,
    wanted: Mapping[str, Tensor],
    file: Path,
    prepare: Callable[[Tensors], Tensors] = dict,
    heads: tuple[str, ...] = HEADS,
) -> tuple[Tensors, list[str]]:
    """Return the tensors of the network that fits best under its own names, and what was undone, a line each.

    Of readings that fit alike, one that was trained goes before averaged copies of it, and plain names before prefixed
    ones. Tensors of losses, metrics and counters are left out, and so is what lacks the prefix of all others, but for
    heads.

    Args:
        content: of the file.
        part: which dictionary or prefix of names, where the file has several (``FILE#PART``); ``""``: the best.
        wanted: names and shapes of the network that is loaded.
        file: for messages.
        prepare: translates older names and shapes of the network's own files.
        heads: prefixes of names that are kept, though the network has none of them.

    Raises:
        RequestError: where there are no tensors or no such part, or two networks fit and nothing tells them apart.
    """
    held = dict(_holders(content))
    if not held:
        seen = f"; it holds {few(content)}" if isinstance(content, Mapping) and content else ""
        raise RequestError(f"{file} is not a state dict: expected names and tensors, nothing else{seen}")
    asked = ""
    if part:
        held, asked = _part(held, part, file)
    readings = [
        _read(path, holder, prefix, wanted, prepare)
        for path, holder in held.items()
        for prefix in _prefixes(_tensors(holder), wanted, asked)
    ]
    most = max(reading.fit for reading in readings)
    best = sorted((r for r in readings if r.fit == most), key=lambda r: (r.averaged, len(r.prefix), -len(r.tensors)))
    taken, rest = best[0], [reading for reading in best[1:] if most and not _same(reading, best[0], wanted)]
    rivals = [
        r for r in rest if r.averaged == taken.averaged and bool(r.prefix) == bool(taken.prefix) and taken.beside(r)
    ]
    if rivals:
        names = sorted({*(taken.beside(rival) for rival in rivals), *(rival.beside(taken) for rival in rivals)})
        raise RequestError(f"{file} holds this network more than once ({few(names)}): say which, as {file}#{names[0]}")
    notes = [f"{file.name}: weights taken from {taken.path}"] if taken.path else []
    if taken.prefix:
        notes.append(f"{file.name}: prefix {taken.prefix} taken off the names")
    for name in dict.fromkeys(reading.beside(taken) for reading in rest):
        notes.append(f"{file.name}: {name} fits as well and was not taken; to take it, write {file}#{name}")
    beside = [
        key
        for key in taken.tensors
        if key not in wanted and not key.startswith(heads) and (key in taken.outside or _BESIDE.search(key))
    ]
    if left := [*beside, *taken.others]:
        notes.append(f"{file.name}: left out, as no weights of the network: {few(left)}")
    return {key: value for key, value in taken.tensors.items() if key not in beside}, notes


def few(names: Iterable[Any], most: int = 4) -> str:
    """The first names and how many more there are."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _holders(content: Any, path: str = "", depth: int = 3) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every dictionary with tensors, the outer ones first, with its path; not those of an optimiser or a loss."""
    if not isinstance(content, Mapping):
        return
    if _tensors(content):
        yield path, content
    for key, value in content.items():
        if depth and isinstance(key, str) and not _TRAINING.search(key):
            yield from _holders(value, f"{path}.{key}" if path else key, depth - 1)


def _tensors(holder: Mapping[Any, Any]) -> Tensors:
    return {key: value for key, value in holder.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _part(held: dict[str, Mapping[Any, Any]], part: str, file: Path) -> tuple[dict[str, Mapping[Any, Any]], str]:
    """The dictionaries of that name, or else those with names of that prefix, and the prefix."""
    named = {path: holder for path, holder in held.items() if part in (path, path.rpartition(".")[2])}
    if named:
        return named, ""
    prefix = f"{part}."
    prefixed = {path: h for path, h in held.items() if any(key.startswith(prefix) for key in _tensors(h))}
    if prefixed:
        return prefixed, prefix
    raise RequestError(
        f"{file} has no part {part!r} with weights; it has {few(path or 'names of its own' for path in held)}"
    )


def _prefixes(tensors: Tensors, wanted: Mapping[str, Tensor], asked: str, most: int = 8) -> list[str]:
    """What may stand before the network's names: nothing, what precedes names that are wanted, known wrappers.

    All of it begins with what was asked for.
    """
    counted: Counter[str] = Counter()
    names = [key.removeprefix(asked) for key in tensors if key.startswith(asked)]
    for key in names:
        steps = key.split(".")
        counted.update(".".join(steps[:i]) + "." for i in range(1, len(steps)) if ".".join(steps[i:]) in wanted)
    wrapped, rest = "", names
    while wrapper := next((w for w in _WRAPPERS if 2 * sum(key.startswith(w) for key in rest) > len(rest)), None):
        wrapped += wrapper
        rest = [key.removeprefix(wrapper) for key in rest if key.startswith(wrapper)]
    found = [prefix for prefix, _ in counted.most_common(most)]
    return [asked + prefix for prefix in dict.fromkeys(["", *found, wrapped])]


def _read(
    path: str,
    holder: Mapping[Any, Any],
    prefix: str,
    wanted: Mapping[str, Tensor],
    prepare: Callable[[Tensors], Tensors],
) -> Reading:
    tensors = _tensors(holder)
    inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    outside = {key: value for key, value in tensors.items() if not key.startswith(prefix) and key not in inside}
    ready = prepare({**inside, **outside})
    others = tuple(str(key) for key in holder if key not in tensors)
    fit = sum(key in ready and ready[key].shape == value.shape for key, value in wanted.items())
    return Reading(path, prefix, ready, frozenset(outside), others, fit)


def _same(a: Reading, b: Reading, wanted: Mapping[str, Tensor]) -> bool:
    """Whether two readings give the network the same weights."""
    shared = [key for key in wanted if key in a.tensors and key in b.tensors]
    pairs = [(a.tensors[key], b.tensors[key]) for key in shared]
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)
