"""The command line, killed at chosen moments, one after the other.

``python -m tests.support.kill_at_moment HOME MOMENTS [run ...]``

MOMENTS is a JSON list of ``[STAGE, EVENT, DELAY]``; the last line of the output is the list of the exit codes. Each run
is a process of its own, which is forked after torch was imported: that takes longer than the rest of a run.

Moments are counted, not timed, so that they mean the same on every machine: an event is a line of output, or a change
of a file or folder below HOME by the main thread as Python's audit hooks tell it, and stages are told apart by the
lines. SIGKILL comes at that event of that stage, or so many seconds after it: then also in the midst of arithmetic, or
of what compiled code writes. Without a stage nothing is killed, and HOME/events.json counts what there was.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

STAGES = ("training", "decomposing", "evaluating", "storing", "pushing", "mirroring")
"""In the order in which ``run --methods ours,protopnet`` comes to them first."""

BEGINS = [
    (1, r"training the black box", "training"),
    (1, r"black box found|epochs: ", "decomposing"),
    (1, r"classes decomposed: |fit found", "evaluating"),
    (1, r"test batches", "storing"),
    (2, r"^\[2/2\]|last 1/1", "training"),
    (2, r"warm: project", "pushing"),
    (2, r"epochs: |fit found", "evaluating"),
    (2, r"test batches", "storing"),
    (2, r"^  done in", "mirroring"),
]
"""Cell and line after which a stage begins."""

IMPORTED = ("torch._dynamo", "lightning_fabric", "bench.api.run", "baselines.protopnet", "bench.posthoc.method")
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.copyfile"}


class Killer:
    """Counts events and kills this process at one of them."""

    def __init__(self, home: str, stage: str, event: int, delay: float) -> None:
        self.home, self.target, self.delay = home, (stage, event), delay
        self.cell, self.stage = 1, "planning"
        self.counts: Counter[str] = Counter()

    def line(self, text: str) -> None:
        self.cell = 2 if text.startswith("[2/2]") else self.cell
        for cell, pattern, stage in BEGINS:
            if cell == self.cell and re.search(pattern, text):
                self.stage = stage
        self.event()

    def hook(self, name: str, arguments: tuple[Any, ...]) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # `activity.json` is written by the clock: not the same events in every run
        if name == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(self.home):
                self.event()
        elif name in CHANGES and str(arguments[0]).startswith(self.home):
            self.event()

    def event(self) -> None:
        here = (self.stage, self.counts[self.stage])
        self.counts[self.stage] += 1
        if here == self.target:
            if not self.delay:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Thread(target=self.later, daemon=True).start()

    def later(self) -> None:
        time.sleep(self.delay)
        os.kill(os.getpid(), signal.SIGKILL)


class Heard:
    """Standard output, of which the killer hears every line."""

    def __init__(self, stream: Any, killer: Killer) -> None:
        self.stream, self.killer, self.rest = stream, killer, ""

    def write(self, text: str) -> int:
        written = self.stream.write(text)
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.killer.line(line)
        return int(written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def main() -> None:
    home, moments, *arguments = sys.argv[1:]
    codes = []
    for module in IMPORTED:
        importlib.import_module(module)
    for stage, event, delay in json.loads(moments):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            run(Killer(home, stage, event, delay), arguments)
            return
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.stdout.write(f"\n{json.dumps(codes)}\n")


def run(killer: Killer, arguments: list[str]) -> None:
    from bench.cli.main import main as command

    sys.argv = ["bench", *arguments]
    sys.stdout = Heard(sys.stdout, killer)
    sys.addaudithook(killer.hook)
    try:
        command()
    finally:
        Path(killer.home, "events.json").write_text(json.dumps(killer.counts))


if __name__ == "__main__":
    main()
