"""A finished cell once more, from nothing, to see whether the same numbers come out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.contract import RequestError
from bench.results.store import Store, write_json
from bench.runner.cell import CellRunner
from bench.runner.progress import ConsoleProgress


@dataclass(frozen=True)
class Reproduction:
    """What came out: names with the value before and now.

    Attributes:
        compared: how many numbers.
        numbers: those that are not exactly equal.
        surroundings: versions, hardware and switches that are not equal.
    """

    compared: int
    numbers: Mapping[str, tuple[Any, Any]]
    surroundings: Mapping[str, tuple[Any, Any]]


def reproduce(
    folder: Path, home: Path, device: torch.device, progress: ConsoleProgress, memory_limit: int | None = None
) -> Reproduction:
    """Run the cell in another home, where nothing of it is, and compare.

    Args:
        folder: the finished cell's, ``.../cells/ID``.
        home: the other ``BENCH_HOME``; one in which the repetition was begun goes on.
        device: where tensors go.
        progress: where it is told.
        memory_limit: bytes.

    Raises:
        RequestError: where there is no finished cell, or ``home`` is the one in which it lies.
    """
    source, name = Store(folder.parent.parent), folder.name
    found = source.record(name)
    if folder.parent.name != "cells" or found.result is None:
        why = f" ({found.failure['reason']})" if found.failure else ""
        raise RequestError(f"{folder} is not a finished cell{why}: expected .../cells/ID with a result in it")
    store = Store(home)
    if store.cell(name).path.resolve() == folder:
        raise RequestError(
            f"{folder} lies in this BENCH_HOME: name a fresh one, BENCH_HOME=DIR python -m bench repeat ..."
        )
    written = source.specification(name)
    place = store.cell(name).path.resolve()
    where, beside = dict(written["where"]), source.root.resolve() / "data"
    if where["data_root"] is None and where["folder"] is not None and beside.is_dir():
        where["data_root"] = str(beside)  # where it was looked for by default
    command = f"BENCH_HOME={shlex.quote(str(home.resolve()))} python -m bench cell {shlex.quote(str(place))}"
    write_json(place / "cell.json", {**written, "where": where, "command": command})
    CellRunner(store, name, home, device, progress, memory_limit=memory_limit).run()
    before, now = source.outcome(name) or {}, store.outcome(name) or {}
    numbers = [_numbers(one) for one in (before, now)]
    return Reproduction(
        compared=len(numbers[0].keys() | numbers[1].keys()),
        numbers=_different(*numbers),
        surroundings=_different(*(_flat(one["environment"]) for one in (before, now))),
    )


def _numbers(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """All that must come out again; not what was timed."""
    found: dict[str, Any] = {f"not applicable: {name}": why for name, why in outcome["not_applicable"].items()}
    for metric, score in outcome["scores"].items():
        found |= {metric: score["value"], f"{metric} (n)": score["n"]}
        found |= {f"{metric}.{name}": value for name, value in score["also"].items()}
    return found | {name: outcome[name] for name in ("prototypes", "parameters")}


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*before, *(name for name in now if name not in before)]
    pairs = {name: (before.get(name), now.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flat(environment: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in environment.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": one for inner, one in value.items()}
        elif name != "arguments":
            found[name] = value
    return found
