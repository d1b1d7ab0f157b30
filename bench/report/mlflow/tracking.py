"""MLflow while a run computes: a process of its own logs each cell when it has ended.

Cells know nothing of MLflow. They write into the store, and that process copies from there. So a server that is gone,
slow or wrong stops no cell, nodes that compute need no way to it, and neither MLflow's imports (130 MB, seconds) nor
the copying are in the times and peaks that cells measure of their own process.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import BenchError
from bench.report.mlflow.mirror import Mirror
from bench.report.mlflow.server import NOT_INSTALLED
from bench.results.store import Store

if TYPE_CHECKING:
    from bench.contract import Progress

# Seconds for the process to end after its run was interrupted; the next `sync` writes the rest.
_PATIENCE = 10.0


@contextlib.contextmanager
def logged(
    home: Path, out: Path | None, uri: str | None, stamp: str, progress: Progress
) -> Iterator[Callable[[str], None]]:
    """Log a run: its cells as they end, its summary at the end; trouble is reported in one line and ends nothing.

    Args:
        home: ``BENCH_HOME``.
        out: folder of the results, if it is another.
        uri: tracking URI.
        stamp: time stamp of the run.
        progress: gets the counts, or the reason why not everything was logged.

    Yields:
        Function of the id of a cell that is finished or has failed; it waits for nothing.
    """
    if find_spec("mlflow") is None:  # asked without the import, which takes seconds
        yield lambda name: None
        progress.note(NOT_INSTALLED)
        return
    command = [sys.executable, "-m", "bench", "sync", "--run", stamp, "--with-parent"]
    command += ["--out", str(out)] if out else []
    command += ["--tracking-uri", uri] if uri else []
    environment = {**os.environ, "BENCH_HOME": str(home.resolve())}
    started: list[subprocess.Popen[str]] = []

    def process() -> subprocess.Popen[str]:
        if not started:  # not before the first cell has ended: until then there is nothing to log
            streams: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            # A session of its own: Ctrl-C ends this process, and then, by the pipe, that one.
            started.append(subprocess.Popen(command, env=environment, text=True, start_new_session=True, **streams))
        return started[0]

    def ended(name: str) -> None:
        pipe: Any = process().stdin
        with contextlib.suppress(BrokenPipeError):  # it has failed, and its reason is read at the end
            pipe.write(f"{name}\n")
            pipe.flush()

    try:
        yield ended
        text, _ = process().communicate()
    except BaseException:
        for running in started:
            _end(running)
        raise
    progress.note((text.strip() or f"MLflow: exit code {process().returncode}").splitlines()[-1])


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def log_with_parent(store: Store, home: Path, uri: str | None, stamp: str) -> str:
    """Log the cells whose ids come on standard input, and at its end the whole run.

    Returns:
        The counts of the last step, or the reason why something could not be logged.
    """
    try:
        mirror = None
        for line in sys.stdin:
            mirror = mirror or Mirror(home, uri)
            mirror.sync(store, [stamp], cell=line.strip())
    except (BenchError, OSError):
        # Not tried again for each cell, since a server that is gone costs a minute each time; the last step tries
        # again, and reports.
        sys.stdin.read()
    try:
        return str(Mirror(home, uri).sync(store, [stamp]))
    except (BenchError, OSError) as error:
        return f"MLflow: {str(error).removeprefix('MLflow: ')}"
