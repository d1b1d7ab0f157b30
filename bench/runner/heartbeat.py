"""Heartbeat of the process that works on a cell, in a file that other processes read."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.core.files import write_json
from bench.core.work_dir import WorkDir
from bench.results.records import read_activity

# Seconds between two versions of the file.
_EVERY = 1.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Heartbeat:
    """Writer of a folder's ``activity.json`` while the context is active; the caller holds the folder's claim."""

    def __init__(self, folder: WorkDir, stage: Callable[[], str]) -> None:
        self._file, self._stage = folder.path / "activity.json", stage
        self._fixed = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "boot": _boot(),  # monotonic times of different boots cannot be compared
            "began": time.time(),
            "began_clock": time.monotonic(),
        }
        self._latest: dict[str, Any] = {}
        self._changed, self._ended = threading.Event(), threading.Event()
        # A daemon thread does not keep a process alive whose main thread has ended.
        self._writer = threading.Thread(target=self._write_often, daemon=True)

    def __enter__(self) -> Heartbeat:
        self._write()
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._writer.join()
        self._file.unlink(missing_ok=True)

    def counted(self, what: str, done: int, total: int | None) -> None:
        """Record that ``done`` of ``total`` items are done."""
        # The thread writes at most once a second: a file for each item would slow the work.
        self._latest = {**self._latest, "what": what, "done": done, "total": total}
        self._changed.set()

    def noted(self, message: str) -> None:
        """Record the newest line of the log."""
        self._latest = {**self._latest, "note": message}
        self._changed.set()

    def _write(self) -> None:
        self._changed.clear()
        write_json(self._file, {**self._fixed, **self._latest, "stage": self._stage()})

    def _write_often(self) -> None:
        while not self._ended.wait(_EVERY):
            if self._changed.is_set():
                try:
                    self._write()
                except OSError:
                    return  # a full disk ends the work itself, at its next file and with the reason


def activity_of(folder: WorkDir) -> dict[str, Any] | None:
    """Return the last heartbeat of the process that works on a folder.

    Returns:
        The content of ``activity.json``, with ``seconds`` since the work began and ``alive``: false if the process was
        killed; ``None`` if no process works on the folder.
    """
    activity = read_activity(folder.path / "activity.json")
    if activity is None:
        return None
    # Wall time may be set back: within one boot of the machine the monotonic clock is used.
    same = activity.get("boot") and activity["boot"] == _boot()
    passed = time.monotonic() - activity["began_clock"] if same else time.time() - activity["began"]
    return {**activity, "seconds": max(0.0, passed), "alive": folder.busy}


def _boot() -> str:
    return _BOOT.read_text().strip() if _BOOT.is_file() else ""
