"""A very small data set in the CUB layout, and a request that trains on it for seconds."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from click.testing import CliRunner
from rich.console import Console

from bench.cli.main import main
from bench.config.plan import Context, plan
from bench.config.schema import Request, parse_overrides
from bench.config.spec import PlannedCell
from bench.data.synthetic import draw
from bench.runner.progress import ConsoleProgress

QUICK = [
    "--datasets", "cub", "--backbones", "tiny", "--recipe", "demo", "--device", "cpu",
    "--set", "classifier.schedule.phases.0.epochs=2",
]  # fmt: skip
PROTOPNET = [
    "--set", "protopnet.schedule.phases.0.epochs=2", "--set", "protopnet.schedule.phases.1.epochs=1",
    "--set", "protopnet.start.backbone=imagenet",
]  # fmt: skip
"""Beside QUICK where protopnet runs, without a black box; settings of what is not in a run are refused."""


def quick(words: Iterable[str]) -> list[str]:
    """QUICK, for a command line of these words."""
    return [*QUICK, *(PROTOPNET if any("protopnet" in word.split(",") for word in words) else [])]


@functools.cache
def _drawn_birds() -> Path:
    """Drawn once for all tests of this process: a second of work, which many modules want."""
    folder = Path(tempfile.mkdtemp(prefix="bench-birds-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    draw(folder / "birds", classes=3, train=5, test=3)
    return folder


def few_birds(folder: Path) -> Path:
    """Three species with five training and three test images each."""
    return shutil.copytree(_drawn_birds() / "birds", folder / "birds")


def planned(data: Path, home: Path, **request: object) -> list[PlannedCell]:
    """The cells of a request like QUICK."""
    overrides, _ = parse_overrides(word for word in quick(request.get("methods", ())) if "=" in word)
    given = {"datasets": ("cub",), "backbones": ("tiny",), "recipe": "demo", "overrides": overrides, **request}
    progress = ConsoleProgress(Console(quiet=True), quiet=True)
    return plan(Request.model_validate(given), Context(home, progress, data_root=data))


def called(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process: without seconds of imports, where a test is not about the process."""
    result = CliRunner().invoke(main, arguments, env={"BENCH_HOME": str(home)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


def bench(home: Path, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        **{"env": environment(home), "capture_output": True, "text": True, "timeout": 300, "check": False, **options},
    )  # fmt: skip


def interruptible() -> None:
    """``preexec_fn`` of a process that gets Ctrl-C: under a runner that ignores it, it would be ignored there too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stored(home: Path) -> dict[str, object]:
    """All of a home's results and black boxes that has to be the same whatever ran them: file -> content.

    Left out is what the clock and the command line say.
    """
    found: dict[str, object] = {}
    for file in sorted([*home.glob("cells/*/result/**/*"), *home.glob("blackboxes/*/result/**/*")]):
        name = str(file.relative_to(home))
        if file.name == "result.json":
            content = json.loads(file.read_text())
            found[name] = {key: content[key] for key in ("scores", "not_applicable", "facts", "prototypes", "images")}
        elif file.name == "history.json":
            found[name] = [{**row, "seconds": None} for row in json.loads(file.read_text())]
        elif file.suffix in (".safetensors", ".csv") and file.name != "usage.csv":
            found[name] = file.read_bytes()
    return found


def cell_processes(home: Path) -> list[tuple[str, int, int]]:
    """What runs cells of that home on this machine: cell, process, and the process that started it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
            status = (process / "status").read_text()
        except OSError:  # it has just ended
            continue
        folders = [word for word in words if word.startswith(f"{home}/cells/")]
        if "cell" in words and folders and "State:\tZ" not in status:
            parent = status.split("PPid:")[1].split()[0]
            found.append((Path(folders[0]).name, int(process.name), int(parent)))
    return found


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "BENCH_HOME": str(home), "OMP_NUM_THREADS": "1"}


def scores(home: Path) -> dict[tuple[str, str], object]:
    """What a home's results say: (method, metric) -> value or reason."""
    rows = json.loads(CliRunner().invoke(main, ["results"], env={"BENCH_HOME": str(home)}).stdout)
    return {(row["label"], row["metric"]): row["value"] if row["status"] == "ok" else row["reason"] for row in rows}
