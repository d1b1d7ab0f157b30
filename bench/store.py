"""The results on disk: the source of truth, from which tables and the MLflow mirror are made.

cells/ID/cell.json      what the cell is, where its inputs lie, the command that runs it
cells/ID/work/          checkpoints and half-finished files of a cell that runs or was killed
cells/ID/failure.json   why the last attempt ended, where it failed
cells/ID/output.txt     what a process of its own printed, while it runs and where it did not end well
cells/ID/result/        everything that came out; it appears in one step, when it is complete
invocations/STAMP.json  one call of `run`: its suite, its command line, its cells
scale/STAMP.json        one call of `scale`: what methods take, measured without data
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bench.errors import RequestError

Status = Literal["ok", "n/a", "failed", "oom"]


@dataclass(frozen=True)
class Row:
    """One cell and one metric, as ``results --json`` prints it; ``low`` and ``high`` by ``bench.report.intervals``."""

    suite: str
    cell: str
    method: str
    label: str
    dataset: str
    backbone: str
    seed: int
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    unit: str
    status: Status
    reason: str


def new_stamp() -> str:
    """The name of a call that begins now; later ones sort behind earlier ones."""
    return time.strftime("%Y%m%d-%H%M%S") + f"-{time.time_ns() // 1_000_000 % 1000:03d}"


def write_json(file: Path, content: Any) -> None:
    """Write beside the file and rename: a reader sees the old content or the new, never half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    unfinished.replace(file)


class Folder:
    """A directory for one piece of work whose result appears in one step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def work(self) -> Path:
        """Where the work in progress lies."""
        return self.path / "work"

    @property
    def result(self) -> Path:
        """The finished result."""
        return self.path / "result"

    @property
    def done(self) -> bool:
        """Whether the result is there."""
        return self.result.is_dir()

    @property
    def busy(self) -> bool:
        """Whether another process holds the directory now."""
        lock = self.path / ".lock"
        if not lock.is_file():
            return False
        with lock.open() as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @property
    def failure(self) -> dict[str, Any] | None:
        """Status and reason of the last attempt, where it failed."""
        file = self.path / "failure.json"
        return json.loads(file.read_text()) if file.is_file() and not self.done else None

    def fail(self, status: Status, reason: str, details: str = "", memory: list[dict[str, Any]] | None = None) -> None:
        """Record why the attempt ended: a line for tables, a traceback, and what did not fit into memory."""
        content = {"status": status, "reason": reason, "details": details}
        write_json(self.path / "failure.json", {**content, **({"memory": memory} if memory else {})})

    def finish(self) -> None:
        """Turn the work into the result."""
        # What only served to go on after a kill: half-trained weights, classes decomposed so far.
        (self.work / "training.pt").unlink(missing_ok=True)
        shutil.rmtree(self.work / "classes", ignore_errors=True)
        self.work.replace(self.result)
        (self.path / "failure.json").unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget result, work and failure."""
        for part in (self.result, self.work):
            if part.is_dir():
                # Renamed first: a half-deleted result must not pass for a result.
                doomed = self.path / f".deleting-{part.name}"
                shutil.rmtree(doomed, ignore_errors=True)
                part.replace(doomed)
                shutil.rmtree(doomed)
        (self.path / "failure.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the directory against other processes; a second one waits. The kernel lets go when we die."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Store:
    """All cells and invocations under one directory.

    Args:
        root: ``BENCH_HOME``, or what ``--out`` says.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @staticmethod
    def read(file: Path) -> dict[str, Any]:
        """The content of one of the store's files.

        Raises:
            RequestError: where it is broken.
        """
        return _read(file)

    def cell(self, name: str) -> Folder:
        """The folder of a cell."""
        return Folder(self.root / "cells" / name)

    def find(self, prefix: str) -> str:
        """The one cell whose id begins with the prefix.

        Raises:
            RequestError: where there is none, or more than one.
        """
        found = [name for name in self.cells() if name.startswith(prefix)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise RequestError(f"no cell {prefix!r} in {self.root}; `python -m bench results` lists them")
        raise RequestError(f"{prefix!r} is short for {len(found)} cells: {', '.join(found[:4])}")

    def cells(self) -> list[str]:
        """Ids of all cells, finished or not."""
        folder = self.root / "cells"
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if (path / "cell.json").is_file())

    def specification(self, name: str) -> dict[str, Any]:
        """What the cell is: the content of its ``cell.json``."""
        return _read(self.cell(name).path / "cell.json")

    def outcome(self, name: str) -> dict[str, Any] | None:
        """The content of its ``result.json``, where it is finished."""
        folder = self.cell(name)
        return _read(folder.result / "result.json") if folder.done else None

    def record_invocation(self, stamp: str, content: Mapping[str, Any]) -> None:
        """Remember one call of ``run``."""
        write_json(self.root / "invocations" / f"{stamp}.json", dict(content))

    def invocations(self) -> dict[str, dict[str, Any]]:
        """All calls of ``run``, oldest first: stamp -> content."""
        return self._records("invocations")

    def record_scale(self, stamp: str, content: Mapping[str, Any]) -> None:
        """Remember what one call of ``scale`` measured."""
        write_json(self.root / "scale" / f"{stamp}.json", dict(content))

    def scales(self) -> dict[str, dict[str, Any]]:
        """All calls of ``scale``, oldest first: stamp -> what it measured."""
        return self._records("scale")

    def _records(self, kind: str) -> dict[str, dict[str, Any]]:
        return {file.stem: _read(file) for file in sorted((self.root / kind).glob("[!.]*.json"))}

    def latest(self, suite: str | None = None) -> str | None:
        """Stamp of the newest invocation, of that suite where one is named."""
        stamps = [stamp for stamp, content in self.invocations().items() if suite in (None, content["suite"])]
        return stamps[-1] if stamps else None

    def rows(self, cells: list[str] | None = None, suite: str | None = None) -> list[Row]:
        """One row per cell and metric, of the given cells or of all, in their order."""
        suites: dict[str, str] = {}
        for content in self.invocations().values():
            for name in content["cells"]:
                if suite in (None, content["suite"]):
                    suites[name] = content["suite"]
        chosen = self.cells() if cells is None else cells
        if suite is not None:
            chosen = [name for name in chosen if name in suites]
        return [row for name in chosen for row in self._rows_of(name, suites.get(name, ""))]

    def _rows_of(self, name: str, suite: str) -> list[Row]:
        written = self.specification(name)
        spec = written["spec"]
        common = {
            "suite": suite,
            "cell": name,
            "method": spec["method"],
            "label": written["label"],
            "dataset": spec["dataset"],
            "backbone": spec["backbone"] or "",
            "seed": spec["seed"],
        }
        outcome = self.outcome(name)
        failure = self.cell(name).failure or {"status": "failed", "reason": "not finished"}
        rows = []
        for metric, facts in spec["metrics"].items():
            if outcome is None:
                rows.append(_row(common, metric, facts["unit"], failure["status"], failure["reason"]))
            elif metric in outcome.get("not_applicable", {}):
                rows.append(_row(common, metric, facts["unit"], "n/a", outcome["not_applicable"][metric]))
            else:
                score = outcome["scores"][metric]
                numbers = {metric: score["value"]}
                numbers |= {f"{metric}.{number}": value for number, value in score.get("also", {}).items()}
                for number, value in numbers.items():
                    rows.append(_row(common, number, facts["unit"], "ok", "", value, score["n"]))
        for metric, facts in written["not_applicable"].items():
            rows.append(_row(common, metric, facts["unit"], "n/a", facts["reason"]))
        return rows


def as_dicts(rows: list[Row]) -> list[dict[str, Any]]:
    """Rows as plain dictionaries."""
    return [asdict(row) for row in rows]


def _row(
    common: dict[str, Any],
    metric: str,
    unit: str,
    status: Status,
    reason: str,
    value: float | None = None,
    n: int | None = None,
) -> Row:
    return Row(**common, metric=metric, value=value, low=None, high=None, n=n, unit=unit, status=status, reason=reason)


def _read(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise RequestError(f"{file} cannot be read ({error}); delete it and run again") from error
    return content
