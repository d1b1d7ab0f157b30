"""A directory for one piece of work whose result appears in one step; killed at any moment, nothing of it is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from bench.core import locks
from bench.core.errors import RequestError
from bench.core.files import StoredModel, flush, parse, unreadable, write_json
from bench.core.integrity import FILE as DIGESTS
from bench.core.integrity import digests_of

Status = Literal["ok", "n/a", "failed", "oom"]

_SPENT = ("failure.json", "anew", "activity.json")
"""Files that say nothing any more when the result is there."""

FIT = "fit.json"
"""What is known of a fit; it is written after the weights and the curves, so that a fit without it is not complete."""


class _Failure(StoredModel):
    """``failure.json``; see :meth:`WorkDir.fail`."""

    status: Literal["failed", "oom"]
    reason: str
    details: str


class WorkDir:
    """What is known of one piece of work, and how far it is.

    result/        everything that came out; it appears by one rename, when it is complete, with digests
    work/          what will be the result
    resume/        what only serves to go on after a kill: checkpoints, classes decomposed so far
    failure.json   why the last attempt ended, where it failed
    activity.json  what the process that holds it is doing; left behind by one that was killed
    output.txt     what a process of its own printed, while it runs and where it did not end well
    .lock          held by the process that works here; the kernel lets go when that dies
    """

    def __init__(self, path: Path, check: Callable[[Path], object] = lambda result: None) -> None:
        self.path, self._check = path, check
        self._result = path / "result"

    @property
    def work(self) -> Path:
        """Where the result in progress lies."""
        return self.path / "work"

    @property
    def resume(self) -> Path:
        """Where lies what a result does not keep."""
        return self.path / "resume"

    @property
    def result(self) -> Path:
        """The finished result."""
        return self._result

    @property
    def done(self) -> bool:
        """Whether the result is there."""
        return os.path.isdir(self._result)  # noqa: PTH112 (asked a dozen times for each of thousands of cells)

    @property
    def anew(self) -> bool:
        """Whether everything is to be computed here, though another cell may have the same part."""
        return (self.path / "anew").is_file()

    @property
    def failure(self) -> dict[str, Any] | None:
        """Status and reason of the last attempt, where it failed; and why a cell's result counts for nothing."""
        if not self.done:
            return read_failure(self.path / "failure.json")
        try:
            self._check(self.result)
        except RequestError as error:
            return failed(str(error))
        return None

    @property
    def failed_at(self) -> int:
        """When the failure was recorded, in nanoseconds; 0 where there is none."""
        file = self.path / "failure.json"
        return file.stat().st_mtime_ns if file.is_file() else 0

    def log_tail(self, lines: int) -> list[str]:
        """The last lines of the log of work that is not finished."""
        log = self.work / "log.txt"
        return log.read_text(errors="replace").splitlines()[-lines:] if log.is_file() else []

    def fail(self, status: Status, reason: str, details: str = "", **more: Any) -> None:
        """Record why the attempt ended.

        Args:
            status: of the work.
            reason: a line for tables.
            details: a traceback.
            more: what else is known, such as what did not fit into memory; what is empty is left out.
        """
        content = {"status": status, "reason": reason, "details": details}
        write_json(self.path / "failure.json", {**content, **{name: value for name, value in more.items() if value}})

    def start_over(self) -> None:
        """Forget what is half done."""
        shutil.rmtree(self.resume, ignore_errors=True)

    def finish(self) -> None:
        """Turn the work into the result."""
        for leftover in list(self.work.rglob(".*")):
            leftover.unlink()  # half a file, of a process that was killed while writing
        self.seal()
        for file in self.work.rglob("*"):
            flush(file)  # else a power cut could leave the name without the content
        self.work.replace(self.result)
        flush(self.path)
        self.tidy()

    def seal(self) -> None:
        """Write down the digests of all files of the work, as they are now."""
        write_json(self.work / DIGESTS, digests_of(self.work))

    def tidy(self) -> None:
        """Remove what a finished result does not need; the caller holds the claim."""
        shutil.rmtree(self.resume, ignore_errors=True)
        for leftover in self.path.glob(".deleting-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in [*self.path.glob(".activity.json.*"), *(self.path / name for name in _SPENT)]:
            leftover.unlink(missing_ok=True)

    @property
    def untidy(self) -> bool:
        """Whether a process was killed between the appearance of the result and the end of :meth:`tidy`."""
        return self.done and not {"resume", *_SPENT}.isdisjoint(os.listdir(self.path))  # noqa: PTH208 (names alone)

    def set_aside(self) -> Path:
        """Move a damaged result out of the way, so that it is computed again; nothing is deleted."""
        number = 1 + len(list(self.path.glob("damaged-*")))
        place = self.path / f"damaged-{number}"
        self.result.replace(place)
        return place

    def clear(self) -> None:
        """Forget result, work and failure; the next result owes nothing to what other cells have."""
        write_json(self.path / "anew", {})
        for part in (self.result, self.work, self.resume):
            if part.is_dir():
                # Renamed first: a half-deleted result must not pass for a result.
                doomed = self.path / f".deleting-{part.name}"
                shutil.rmtree(doomed, ignore_errors=True)
                part.replace(doomed)
                shutil.rmtree(doomed)
        (self.path / "failure.json").unlink(missing_ok=True)
        write_json(self.path / "anew", {"cleared": True})

    def renew(self) -> None:
        """As :meth:`clear`, unless what lies here was begun since, by a run that was interrupted."""
        cleared = self.anew and "cleared" in (self.path / "anew").read_text()
        if self.done or self.failure is not None or not cleared:
            self.clear()

    @contextlib.contextmanager
    def claim(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the directory against other processes; a second one waits.

        Args:
            waiting: called once where there is something to wait for.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with locks.exclusive(self.path / ".lock", waiting):
            yield

    @property
    def busy(self) -> bool:
        """Whether a living process works here."""
        return locks.is_held(self.path / ".lock")


def failed(reason: str) -> dict[str, Any]:
    """Return a failure as :meth:`WorkDir.fail` writes it."""
    return {"status": "failed", "reason": reason, "details": ""}


def read_failure(file: Path) -> dict[str, Any] | None:
    """Return why an attempt ended; ``None`` if no attempt has failed. A broken file is a failure too."""
    try:
        return parse(file, file.read_bytes(), _Failure)
    except FileNotFoundError:
        return None
    except OSError as error:
        return failed(unreadable(file, error))
    except RequestError as error:
        return failed(str(error))
