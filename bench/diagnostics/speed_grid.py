"""Speed-up of a grid by a launcher with several cells at a time, compared with the same cells inline."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.contract import CellError, Progress
from bench.diagnostics.measurements import measurement_table
from bench.report.table import Table
from bench.results.store import Store, as_dicts


def measure(request: Sequence[str], launcher: Sequence[str], rounds: int, progress: Progress) -> dict[str, Any]:
    """Time whole ``run`` commands with one thread per cell, each in a temporary home.

    A dry run before each generates the synthetic birds, which are no part of the grid.

    Args:
        request: options of ``run`` that select the cells.
        launcher: options of ``run`` for the launcher to compare.
        rounds: number of rounds; inline and launched runs alternate.
        progress: reporter of each run.

    Returns:
        Cells, seconds of each run, ``speedup`` (the ratio of the medians), and whether both gave the same numbers.

    Raises:
        CellError: if a run fails, with its output.
    """
    seconds: dict[str, list[float]] = {"inline": [], "launched": []}
    results: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for name, options in (("inline", []), ("launched", list(launcher))):
            with tempfile.TemporaryDirectory(prefix="bench-") as home:
                command = ["run", *request, "--no-tracking", *options]
                _bench([*command, "--dry-run"], home)
                began = time.perf_counter()
                _bench(command, home)
                seconds[name].append(time.perf_counter() - began)
                rows = as_dicts(Store(Path(home)).rows())
                results[name] = [row for row in rows if row["unit"] != "s"]  # all but measured times
            progress.note(f"{name}: {seconds[name][-1]:.1f} s")
    return {
        "cells": len({row["cell"] for row in results["inline"]}),
        "seconds": seconds,
        "speedup": median(seconds["inline"]) / median(seconds["launched"]),
        "same_numbers": results["inline"] == results["launched"],
        "cores": os.cpu_count(),
        "request": list(request),
        "launcher": list(launcher),
    }


def _bench(words: Sequence[str], home: str) -> None:
    command = [sys.executable, "-m", "bench", *words]
    # One thread for each cell: sums over other numbers of threads differ in the last bits, and cores are shared.
    variables = {**os.environ, "BENCH_HOME": home, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise CellError(f"{' '.join(command)} failed:\n{process.stdout[-2000:]}{process.stderr[-2000:]}")


def table(result: Mapping[str, Any]) -> Table:
    """Lay out the result of :func:`measure` as a table with notes."""
    seconds = {name: median(values) for name, values in result["seconds"].items()}
    names = {"inline": "inline", "launched": " ".join(result["launcher"])}
    rows = [
        {"launcher": title, "s": f"{seconds[name]:.1f}", "throughput": f"{seconds['inline'] / seconds[name]:.2f}"}
        for name, title in names.items()
    ]
    same = "the same numbers" if result["same_numbers"] else "OTHER NUMBERS"
    above = ["{cells} cells, {cores} cores".format(**result)]
    notes = [f"{result['speedup']:.2f} times the throughput, {same}"]
    return measurement_table("speed of a grid", above, tuple(rows[0]), rows, notes)
