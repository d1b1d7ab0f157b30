"""Mirroring while cells run: finished cells, and the curves of those that are being trained.

Cells know nothing of MLflow. They write into the store; the follower looks at the changes there. So a server that is
gone, slow or wrong stops no cell, and nodes that compute need no way to it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.contract import BenchError, Progress
from bench.core.console import say
from bench.report.mlflow.mirror import Mirror
from bench.report.mlflow.run import Counts
from bench.results.store import Store

_EVERY = 10.0
DELAY = 15.0
"""Seconds before anybody follows a run: short ones end before there is anything to see."""
_PATIENCE = 60.0
_SHARE = 10
"""A pass that took a second is followed by at least so many without one: large grids are looked at less often."""
_LOOKED_AT = ("cell.json", "failure.json", "result/result.json", "work/history.json", "resume/history.json")


class Follower:
    """Follower that mirrors the changes since its last look.

    Args:
        home: ``BENCH_HOME``.
        store: results.
        uri: tracking URI of the mirror.
        stamps: time stamps of the runs; ``None``: all, including those that begin later.
        said: called with the text of each problem, once.
    """

    def __init__(
        self,
        home: Path,
        store: Store,
        uri: str | None,
        stamps: list[str] | None = None,
        said: Callable[[str], None] = say,
    ) -> None:
        self.home, self.store, self.uri, self.stamps, self._said = home, store, uri, stamps, said
        self._mirror: Mirror | None = None
        self._seen: dict[str, list[int]] = {}
        self._next = 0.0
        self._trouble = ""
        self.counts = Counts()

    def look(self) -> None:
        """Mirror the changes when it is time to; trouble with MLflow is reported and tried again later."""
        if time.monotonic() < self._next:
            return
        began = time.monotonic()
        try:
            self.finish()
        except (BenchError, OSError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._said(str(error))
        self._next = time.monotonic() + max(_EVERY, _SHARE * (time.monotonic() - began))

    def finish(self, progress: Progress | None = None) -> Counts:
        """Mirror the changes now, and return the counts since the beginning.

        Raises:
            BenchError: if MLflow fails; the store still has everything.
        """
        known = self.store.invocations()
        state = {stamp: self._state(content) for stamp, content in known.items() if stamp in (self.stamps or known)}
        changed = [stamp for stamp, found in state.items() if self._seen.get(stamp) != found]
        if changed:
            self._mirror = self._mirror or Mirror(self.home, self.uri)
            done = self._mirror.sync(self.store, changed, progress)
            # The number of waiting cells is a state and no sum.
            self.counts = Counts(
                self.counts.created + done.created, self.counts.updated + done.updated, done.unchanged, done.waiting
            )
            self._seen.update({stamp: state[stamp] for stamp in changed})
        return self.counts

    def _state(self, content: dict[str, Any]) -> list[int]:
        """Return when the files that are mirrored were last written: cheap to find out, also for thousands of cells."""
        cells = [self.store.cell(name).path / file for name in content["cells"] for file in _LOOKED_AT]
        cells += [archive.file for archive in self.store.archives()]
        boxes = self.home.glob("blackboxes/*/*/history.json")
        return [_written(file) for file in (*cells, *boxes)]


def _written(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


@contextmanager
def followed(home: Path, out: Path | None, uri: str | None, stamp: str) -> Iterator[None]:
    """Mirror the visible results of a run in a process of its own while its cells run.

    A process of its own: neither its work nor its imports are in the measured time. The changes that it does not reach
    are left to the full mirroring afterwards. It ends when this process does, however that ends, since it listens to a
    pipe of which this one holds the other end.
    """
    command = [sys.executable, "-m", "bench", "sync", "--run", stamp, "--with-parent"]
    command += ["--out", str(out)] if out else []
    command += ["--tracking-uri", uri] if uri else []
    environment = {**os.environ, "BENCH_HOME": str(home.resolve())}
    followers: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        # Silent: the last pass meets the same problems, and reports them. A session of its own: Ctrl-C ends us, and
        # then, by the pipe, it.
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        followers.append(
            subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True, **quiet)
        )

    timer = threading.Timer(DELAY, start)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for follower in followers:
            _end(follower)


def _end(follower: subprocess.Popen[bytes]) -> None:
    assert follower.stdin is not None
    follower.stdin.close()
    try:
        follower.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        follower.kill()
        follower.wait()


def until_end_of_input(follower: Follower) -> None:
    """Look now and then, until the process at the other end of our standard input is gone."""
    ended = threading.Event()

    def listen() -> None:
        # The descriptor itself: a thread that waits in Python's own stream would hold up the end of the process.
        while os.read(0, 1024):
            pass
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    while not ended.is_set():
        follower.look()
        ended.wait(1.0)
