"""Speed-up of a grid by a launcher with several cells at a time, compared with the same cells inline."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.contract import CellError, Progress
from bench.core.paths import home
from bench.diagnostics.measurements import measurement_table
from bench.report.table import Table
from bench.results.store import Store, as_dicts


def measure(request: Sequence[str], launcher: Sequence[str], rounds: int, progress: Progress) -> dict[str, Any]:
    """Time whole ``run`` commands with one thread per cell, each in a temporary home.

    The synthetic birds of ``BENCH_HOME``, which a dry run draws where they are missing, are no part of the grid.

    Returns:
        Cells, seconds of each run, ``speedup`` (the ratio of the medians), and whether both gave the same numbers.

    Raises:
        CellError: if a run fails, with its output.
    """
    seconds: dict[str, list[float]] = {"inline": [], "launched": []}
    results: dict[str, list[dict[str, Any]]] = {}
    command = ["run", *request, "--no-tracking"]
    with _empty_home() as folder:
        _bench([*command, "--dry-run"], folder)
    for _ in range(rounds):
        for name, options in (("inline", []), ("launched", list(launcher))):
            with _empty_home() as folder:
                began = time.perf_counter()
                _bench([*command, *options], folder)
                seconds[name].append(time.perf_counter() - began)
                rows = as_dicts(Store(folder).rows())
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


@contextlib.contextmanager
def _empty_home() -> Iterator[Path]:
    """Provide a temporary home with the synthetic birds of ``BENCH_HOME``."""
    birds = home().resolve() / "data"
    birds.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        (Path(folder) / "data").symlink_to(birds)
        yield Path(folder)


def _bench(words: Sequence[str], folder: Path) -> None:
    command = [sys.executable, "-m", "bench", *words]
    # One thread for each cell: sums over other numbers of threads differ in the last bits, and cores are shared.
    variables = {**os.environ, "BENCH_HOME": str(folder), "OMP_NUM_THREADS": "1"}
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
