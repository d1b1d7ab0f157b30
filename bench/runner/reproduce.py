"""Reproduction of a finished cell from scratch, to compare its numbers."""

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
    """Differences between a cell and its reproduction: names with the values before and now.

    Attributes:
        compared: number of compared numbers.
        numbers: numbers that are not exactly equal.
        surroundings: versions, hardware and switches that differ.
    """

    compared: int
    numbers: Mapping[str, tuple[Any, Any]]
    surroundings: Mapping[str, tuple[Any, Any]]


def reproduce(
    folder: Path, home: Path, device: torch.device, progress: ConsoleProgress, memory_limit: int | None = None
) -> Reproduction:
    """Run a finished cell again in another, fresh home, and compare the numbers.

    An interrupted reproduction in that home is resumed.

    Raises:
        RequestError: if there is no finished cell, or ``home`` contains it.
    """
    source, name = Store(folder.parent.parent), folder.name
    record = source.record(name)
    if folder.parent.name != "cells" or record.result is None:
        why = f" ({record.failure['reason']})" if record.failure else ""
        raise RequestError(f"{folder} is not a finished cell{why}: expected .../cells/ID with a result in it")
    store = Store(home)
    if store.cell(name).path.resolve() == folder:
        raise RequestError(
            f"{folder} is in this BENCH_HOME: name a fresh one, BENCH_HOME=DIR python -m bench repeat ..."
        )
    written = source.specification(name)
    place = store.cell(name).path.resolve()
    where, beside = dict(written["where"]), source.root.resolve() / "data"
    # The fresh home has no data: the original one is used, which the digest of the data set guards.
    if where["data_root"] is None and where["folder"] is not None and beside.is_dir():
        where["data_root"] = str(beside)  # the default of the home in which it was run
    command = f"BENCH_HOME={shlex.quote(str(home.resolve()))} python -m bench cell {shlex.quote(str(place))}"
    write_json(place / "cell.json", {**written, "where": where, "command": command})
    CellRunner(store, name, home, device, progress, memory_limit=memory_limit).run()
    before, now = source.outcome(name) or {}, store.outcome(name) or {}
    numbers = [_numbers(outcome) for outcome in (before, now)]
    return Reproduction(
        compared=len(numbers[0].keys() | numbers[1].keys()),
        numbers=_different(*numbers),
        surroundings=_different(*(_flat(outcome["environment"]) for outcome in (before, now))),
    )


def _numbers(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers that must be equal again: all but times."""
    numbers: dict[str, Any] = {f"not applicable: {name}": why for name, why in outcome["not_applicable"].items()}
    for metric, score in outcome["scores"].items():
        numbers |= {metric: score["value"], f"{metric} (n)": score["n"]}
        numbers |= {f"{metric}.{name}": value for name, value in score["also"].items()}
    return numbers | {name: outcome[name] for name in ("prototypes", "parameters")}


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*before, *(name for name in now if name not in before)]
    pairs = {name: (before.get(name), now.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flat(environment: Mapping[str, Any]) -> dict[str, Any]:
    flat = {}
    for name, value in environment.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{key}": item for key, item in value.items()}
        elif name != "arguments":
            flat[name] = value
    return flat
