"""Resource usage of a running cell: time, memory and energy, in a table that grows in the cell's folder."""

from __future__ import annotations

import csv
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from bench.core.energy import GpuMeter, NotMeasured, ProcessorMeter

if TYPE_CHECKING:
    import torch

FILE = "usage.csv"
# Seconds since 1970; since the row before, passed and computed on processors; bytes in use now; joules since the row
# before. Of a GPU the same. A value that the machine does not report is empty.
COLUMNS = (
    "time",
    "seconds",
    "cpu_seconds",
    "memory_bytes",
    "cpu_joules",
    "gpu_busy_seconds",
    "gpu_memory_bytes",
    "gpu_joules",
)

_SUMS = ("seconds", "cpu_seconds", "gpu_busy_seconds", "cpu_joules", "gpu_joules")


class Usage:
    """Context that writes a row every few seconds; rows of attempts that were killed are kept."""

    def __init__(self, folder: Path, device: torch.device, every: float = 5.0) -> None:
        self.file, self.device, self.every = folder / FILE, device, every
        self.reasons: dict[str, str] = {}
        self._cpu: ProcessorMeter | None = None
        self._gpu: GpuMeter | None = None

    def __enter__(self) -> Usage:
        try:
            self._cpu = ProcessorMeter()
        except NotMeasured as error:
            self.reasons["cpu"] = str(error)
        try:
            if self.device.type != "cuda":
                raise NotMeasured("no GPU was used")
            self._gpu = GpuMeter(self.device)
        except NotMeasured as error:
            self.reasons["gpu"] = str(error)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        # Appended, so that the sums are over all attempts.
        self._stream: TextIO = self.file.open("a+")
        self._stream.seek(0)
        before = self._stream.read()
        if not before:
            self._stream.write(",".join(COLUMNS) + "\n")
        elif not before.endswith("\n"):
            self._stream.write("\n")  # the row of a killed attempt is not complete
        self._last = (time.perf_counter(), _cpu_seconds())
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watcher.join()
        self._stream.close()

    def _watch(self) -> None:
        while True:
            ended = self._ended.wait(self.every)
            try:
                self._write()
            except OSError:
                return  # a full disk ends the work itself, at its next file and with the reason
            if ended:
                return

    def _write(self) -> None:
        # Imported here, with torch: the table of a finished cell is read without it.
        from bench.core.memory import resident

        now = (time.perf_counter(), _cpu_seconds())
        seconds, computed = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now
        busy = self._gpu and self._gpu.busy()
        row = (
            round(time.time(), 3),
            seconds,
            computed,
            resident(),
            self._cpu and self._cpu.joules(),
            None if busy is None else busy * seconds,
            self._gpu and self._gpu.memory(),
            self._gpu and self._gpu.joules(seconds),
        )
        cells = ("" if value is None else str(value if isinstance(value, int) else round(value, 3)) for value in row)
        self._stream.write(",".join(cells) + "\n")
        self._stream.flush()

    def record(self) -> dict[str, Any]:
        """Return sums over all attempts, after the end; ``None`` if not measured, with a reason in ``not_measured``."""
        rows = read_usage(self.file.parent)
        sums = {name: _sum(rows, name) for name in _SUMS}
        return {"wall_seconds": sums.pop("seconds"), **sums, "not_measured": dict(self.reasons)}


def read_usage(folder: Path) -> list[dict[str, float | None]]:
    """Return the rows of a folder's table, oldest first; empty if it has no table."""
    try:
        stream = (folder / FILE).open(newline="")
    except FileNotFoundError:
        return []
    with stream:
        return [row for row in map(_parsed, csv.DictReader(stream)) if row is not None]


def _parsed(row: Mapping[str | None, Any]) -> dict[str, float | None] | None:
    """Return the row as numbers; ``None`` for one that a killed process did not finish."""
    try:
        return {name: float(row[name]) if row[name] != "" else None for name in COLUMNS}
    except (TypeError, ValueError):
        return None


def _sum(rows: list[dict[str, float | None]], name: str) -> float | None:
    values = [value for row in rows if (value := row[name]) is not None]
    return round(sum(values), 3) if values else None


def _cpu_seconds() -> float:
    """Return the processor time of this process on all its threads, and of its children that have ended."""
    return sum(os.times()[:4])
