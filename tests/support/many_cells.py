"""A finished grid of 2,000 cells, to measure planning and skipping: ``python -m tests.support.many_cells HOME``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

SEEDS = 400
KS = "2,3,4,5,6"


def arguments(seeds: int = SEEDS) -> list[str]:
    """What ``run`` is asked for: a cell for every seed and k."""
    chosen = ",".join(map(str, range(seeds)))
    return ["--methods", "ours", "--datasets", "demo", "--no-controls", "--set", f"ours.k={KS}", "--seeds", chosen]


def finish(home: Path, seeds: int = SEEDS) -> int:
    """Write results for every cell of the grid, as if each had run; how many there are."""
    from rich.console import Console

    from bench.config import schema
    from bench.config.plan import Context, plan
    from bench.runner.launchers.tasks import write_down
    from bench.runner.progress import ConsoleProgress
    from tests.support.stores import StoreMaker

    ks = tuple(int(k) for k in KS.split(","))
    request = schema.Request(
        methods=("ours",), datasets=("demo",), controls=False, grid={"ours.k": ks}, seeds=tuple(range(seeds))
    )
    with ConsoleProgress(Console(stderr=True)) as progress:
        cells = plan(request, Context(home, progress))
    maker = StoreMaker(home)
    write_down(cells, maker.store, lambda cell: f"python -m bench cell cells/{cell.spec.id}")
    for number, cell in enumerate(cells):
        if not maker.store.cell(cell.spec.id).done:
            maker.finish(cell.spec.id, dict.fromkeys(cell.spec.metrics, 50.0 + number % 50))
    return len(cells)


def main() -> None:
    home = Path(sys.argv[1]).resolve()
    count = finish(home)
    for extra in (["--no-tracking"], ["--no-tracking"], ["--dry-run"]):
        command = [sys.executable, "-m", "bench", "run", *arguments(), *extra]
        began = time.perf_counter()
        ended = subprocess.run(
            command, env={**os.environ, "BENCH_HOME": str(home)}, capture_output=True, text=True, check=True
        )
        seconds = time.perf_counter() - began
        sys.stdout.write(f"{count} cells, {' '.join(extra)}: {seconds:.2f} s\n{ended.stdout[-200:]}\n")


if __name__ == "__main__":
    main()
