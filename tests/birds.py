"""A very small data set in the CUB layout, and a request that trains on it for seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bench.data.demo import draw

QUICK = [
    "--datasets", "cub", "--backbones", "tiny", "--recipe", "demo", "--device", "cpu",
    "--set", "classifier.schedule.phases.0.epochs=2",
    "--set", "protopnet.schedule.phases.0.epochs=2",
    "--set", "protopnet.schedule.phases.1.epochs=1",
]  # fmt: skip


def few_birds(folder: Path) -> Path:
    """Three species with five training and three test images each."""
    root = folder / "birds"
    draw(root, classes=3, train=5, test=3)
    return root


def bench(home: Path, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        env=environment(home), capture_output=True, text=True, timeout=300, check=False, **options,
    )  # fmt: skip


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "BENCH_HOME": str(home), "OMP_NUM_THREADS": "1"}


def scores(home: Path) -> dict[tuple[str, str], object]:
    """What a home's results say: (method, metric) -> value or reason."""
    rows = json.loads(bench(home, "results").stdout)
    return {(row["label"], row["metric"]): row["value"] if row["status"] == "ok" else row["reason"] for row in rows}
