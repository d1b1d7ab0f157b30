"""Timer, conditions and table that the measuring commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import torch

from bench.core import environment
from bench.report.table import Column, Row, Table, Word


def measurement_table(
    title: str,
    conditions: Sequence[str],
    headers: Sequence[str],
    rows: Sequence[Mapping[str, str]],
    notes: Sequence[str] = (),
) -> Table:
    """Return the table of a ``speed`` command, whose texts are formatted already.

    The first header is that of the rows' names.
    """
    first, *others = headers
    columns = tuple(Column(header) for header in others)
    lines = tuple(Row(row[first], {column.key: Word(row.get(column.name, "-")) for column in columns}) for row in rows)
    return Table(title, columns, lines, stub=(first,), facts=(*conditions, *notes))


def timed(device: torch.device, function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Call a function; return its result and the seconds until the device has finished it."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    # torch.utils.benchmark.Timer discards the results, which most measurements compare as well.
    wait()
    begin = perf_counter()
    result = function(*arguments)
    wait()
    return result, perf_counter() - begin


def copy_bandwidth(device: torch.device) -> float:
    """Measure the bytes per second that a copy of 256 MiB reads and writes, the best of six."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    best = min(timed(device, target.copy_, source)[1] for _ in range(6))
    # A copy reads and writes each byte.
    return 2 * source.numel() * source.element_size() / best


def conditions(device: torch.device) -> dict[str, Any]:
    """Record the machine; to be called first, because the measurement itself adds to the load."""
    record = environment.record(device)
    return {
        "device": str(device),
        "hardware": record["hardware"],
        "threads": record["threads"],
        "load": os.getloadavg()[0],
        "partbench": {"version": record["bench"], "git": record["git"]},
    }


def describe(result: Mapping[str, Any]) -> list[str]:
    """Format the recorded conditions of a result as lines, with a warning if the machine was busy."""
    lines = ["on {hardware} ({device}, {threads} threads)".format(**result)]
    # One process that has just started counts for up to a half in the load of the last minute.
    if result["load"] > (os.cpu_count() or 1) + 0.5:
        lines.append(f"load {result['load']:.1f} on {os.cpu_count()} cores: the machine is busy, times vary")
    return lines
