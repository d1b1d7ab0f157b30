"""Work directory: the result of one piece of work appears in one step, and a kill at any moment loses nothing."""

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

# Files without a meaning once there is a result.
_OBSOLETE = ("failure.json", "anew", "activity.json")

# Facts about a fit, written after its weights and curves, so that a fit without this file is not complete.
FIT = "fit.json"


class _Failure(StoredModel):
    """``failure.json``; see :meth:`WorkDir.fail`."""

    status: Literal["failed", "oom"]
    reason: str
    details: str


class WorkDir:
    """Directory of one piece of work and its state.

    result/        the complete result with its digests; it appears by one rename
    work/          the result in progress
    resume/        files needed only to resume after a kill: checkpoints, classes decomposed so far
    failure.json   the reason why the last attempt failed
    activity.json  the present stage of the process at work; left behind by one that was killed
    output.txt     the output of a separate process, while it runs and if it failed
    anew           marker: everything is to be computed here, though another cell may have the same part
    .lock          held by the process at work; the kernel releases it when that dies

    Args:
        path: the directory; it need not exist.
        check: called with the folder of a finished result; raises :class:`RequestError` if the result is not valid.
    """

    def __init__(self, path: Path, check: Callable[[Path], object] = lambda result: None) -> None:
        self.path, self._check = path, check
        self.result, self.work, self.resume = path / "result", path / "work", path / "resume"

    @property
    def done(self) -> bool:
        """Return whether the result exists."""
        return os.path.isdir(self.result)  # noqa: PTH112 (asked a dozen times for each of thousands of cells)

    @property
    def recompute(self) -> bool:
        """Return whether everything is to be computed here, though another cell may have the same part."""
        return (self.path / "anew").is_file()

    @property
    def failure(self) -> dict[str, Any] | None:
        """Status and reason of the last attempt, if it failed, or the reason why a finished result is not valid."""
        if not self.done:
            return read_failure(self.path / "failure.json")
        try:
            self._check(self.result)
        except RequestError as error:
            return failed(str(error))
        return None

    @property
    def failed_at(self) -> int:
        """Time at which the failure was recorded, in nanoseconds; 0 without a failure."""
        file = self.path / "failure.json"
        return file.stat().st_mtime_ns if file.is_file() else 0

    def log_tail(self, lines: int) -> list[str]:
        """Return the last lines of the log of unfinished work."""
        log = self.work / "log.txt"
        return log.read_text(errors="replace").splitlines()[-lines:] if log.is_file() else []

    def fail(self, status: Status, reason: str, details: str = "", **more: Any) -> None:
        """Record why the attempt ended.

        Args:
            status: ``failed`` or ``oom``.
            reason: a line for tables.
            details: a traceback.
            more: further fields, such as the allocations that failed; empty ones are left out.
        """
        content = {"status": status, "reason": reason, "details": details}
        write_json(self.path / "failure.json", {**content, **{name: value for name, value in more.items() if value}})

    def start_over(self) -> None:
        """Delete the files for resuming."""
        shutil.rmtree(self.resume, ignore_errors=True)

    def finish(self) -> None:
        """Turn the work into the result."""
        for leftover in list(self.work.rglob(".*")):
            leftover.unlink()  # half a file, of a process that was killed while writing
        self.seal()
        for file in self.work.rglob("*"):
            flush(file)  # else a power cut could leave the name without the content
        self.work.replace(self.result)
        flush(self.path)  # the rename itself
        self.tidy()

    def seal(self) -> None:
        """Write the digests of all files of the work, as they are now."""
        write_json(self.work / DIGESTS, digests_of(self.work))

    def tidy(self) -> None:
        """Remove files that a finished result does not need; the caller holds the claim."""
        shutil.rmtree(self.resume, ignore_errors=True)
        for leftover in self.path.glob(".deleting-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in [*self.path.glob(".activity.json.*"), *(self.path / name for name in _OBSOLETE)]:
            leftover.unlink(missing_ok=True)

    @property
    def untidy(self) -> bool:
        """Return whether a process was killed between the appearance of the result and the end of :meth:`tidy`."""
        return self.done and not {"resume", *_OBSOLETE}.isdisjoint(os.listdir(self.path))  # noqa: PTH208 (names alone)

    def set_aside(self) -> Path:
        """Move a damaged result out of the way, so that it is computed again; nothing is deleted."""
        number = 1 + len(list(self.path.glob("damaged-*")))
        target = self.path / f"damaged-{number}"
        self.result.replace(target)
        return target

    def clear(self) -> None:
        """Delete result, work and failure; the next result reuses nothing of other cells."""
        # Written before and after: `renew` repeats a clearing that was killed between the two.
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
        """Call :meth:`clear`, unless the unfinished work here was begun since then by an interrupted run."""
        cleared = self.recompute and "cleared" in (self.path / "anew").read_text()
        if self.done or self.failure is not None or not cleared:
            self.clear()

    @contextlib.contextmanager
    def claim(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the directory against other processes; a second one waits.

        Before it waits, ``waiting`` is called once.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with locks.exclusive(self.path / ".lock", waiting):
            yield

    @property
    def busy(self) -> bool:
        """Return whether a living process holds the directory."""
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
