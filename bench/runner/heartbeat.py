"""What a process is doing with a cell, in a file that other processes read."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.core.work_dir import Folder, write_json
from bench.results.records import read_activity

_EVERY = 1.0
"""Seconds between two versions of the file."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Heartbeat:
    """Keeps ``activity.json`` of a folder up to date while it is entered; the caller holds the folder's claim.

    Args:
        folder: whose.
        stage: asked for what is being done.
    """

    def __init__(self, folder: Folder, stage: Callable[[], str]) -> None:
        self._file, self._stage = folder.path / "activity.json", stage
        self._fixed = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "boot": _boot(),
            "began": time.time(),
            "began_clock": time.monotonic(),
        }
        self._told: dict[str, Any] = {}
        self._changed, self._ended = threading.Event(), threading.Event()
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
        """``done`` of ``total`` have gone by."""
        self._told = {**self._told, "what": what, "done": done, "total": total}
        self._changed.set()

    def noted(self, message: str) -> None:
        """The newest line of the log."""
        self._told = {**self._told, "note": message}
        self._changed.set()

    def _write(self) -> None:
        self._changed.clear()
        write_json(self._file, {**self._fixed, **self._told, "stage": self._stage()})

    def _write_often(self) -> None:
        while not self._ended.wait(_EVERY):
            if self._changed.is_set():
                try:
                    self._write()
                except OSError:
                    return  # a full disk ends the work itself, at its next file and with the reason


def activity_of(folder: Folder) -> dict[str, Any] | None:
    """What a process is doing there, or was doing when it was killed; ``seconds`` says since when.

    ``alive`` tells the two apart.
    """
    found = read_activity(folder.path / "activity.json")
    if found is None:
        return None
    # The clock on the wall may be set; where it can be read, the one that only ever counts is asked.
    same = found.get("boot") and found["boot"] == _boot()
    passed = time.monotonic() - found["began_clock"] if same else time.time() - found["began"]
    return {**found, "seconds": max(0.0, passed), "alive": folder.busy}


def _boot() -> str:
    return _BOOT.read_text().strip() if _BOOT.is_file() else ""
