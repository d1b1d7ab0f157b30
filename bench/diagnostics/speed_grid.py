"""How much faster a grid is with several cells at a time: the same cells inline and by a launcher."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.contract import CellError, Progress
from bench.results.store import Store, as_dicts


def measure(request: Sequence[str], launcher: Sequence[str], rounds: int, progress: Progress) -> dict[str, Any]:
    """Wall time of whole ``run`` commands, each in a home of its own that is deleted afterwards; threads: one per cell.

    The demo's birds are drawn before, by a dry run: that is no part of the grid.

    Args:
        request: options of ``run`` that name the cells.
        launcher: options of ``run`` that say how they run the second time.
        rounds: how often; inline and launched take turns.
        progress: told about each run.

    Returns:
        Cells, seconds of every run, ``speedup`` (the ratio of the medians), and whether both gave the same numbers.

    Raises:
        CellError: where a run fails, with what it said.
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
                results[name] = [row for row in rows if row["unit"] != "s"]  # all but what the clock says
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
    surroundings = {**os.environ, "BENCH_HOME": home, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        raise CellError(f"{' '.join(command)} failed:\n{found.stdout[-2000:]}{found.stderr[-2000:]}")
