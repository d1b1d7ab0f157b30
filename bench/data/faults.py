"""Problems of a data set: raised at once when it is read for use, collected when it is verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from bench.contract import RequestError

K = TypeVar("K")

OFFICIAL = "mend it or, if it is from the official archive, unpack the official archive again"
"""Advice on a file that may be the authors', or a user's in the same layout."""


@dataclass(frozen=True)
class Anomaly:
    """Problem that was collected.

    Attributes:
        kind: ``count``, ``class``, ``image``, ``box``, ``keypoint``, ``mask``, ``leak``, ``missing`` (a file that
            is not on disk) or the name of the annotation file whose lines are wrong.
        where: the record's id, the file and its line, or another subject.
        what: description.
    """

    kind: str
    where: str
    what: str


class Fault(RequestError):
    """Error at one line or entry of a file.

    Attributes:
        kind: the file's name.
        where: the file, and the line or entry in it.
        what: description, without the cure.
    """

    kind = where = what = ""


def fault(file: Path, place: int | str | None, what: str, cure: str = OFFICIAL) -> Fault:
    """Return an error of one line that names the file and the line or entry in it."""
    where = f"{file}:{place}" if place else f"{file}"
    error = Fault(f"{where}: {what}; {cure}")
    error.kind, error.where, error.what = file.name, where, what
    return error


def gone(file: Path, cure: str, more: str = "") -> Fault:
    """Return an error of one line about a missing annotation file."""
    error = Fault(f"{file} is missing{more}; {cure}")
    error.kind, error.where, error.what = "missing", f"{file}", f"is missing{more}"
    return error


class Faults:
    """Collector of a reader's problems.

    As a context manager it surrounds the reading of one line or entry: a fault ends that one alone if faults are
    collected, and otherwise the whole reading.

    Args:
        collecting: whether to keep faults in :attr:`collected` and continue, instead of raising the first.
    """

    def __init__(self, collecting: bool = False) -> None:
        self.collecting = collecting
        self.collected: list[Anomaly] = []

    def tell(self, error: RequestError, kind: str = "") -> None:
        """Raise an error, or keep it under its kind."""
        if not self.collecting:
            raise error
        if isinstance(error, Fault):
            self.collected.append(Anomaly(kind or error.kind, error.where, error.what))
        else:
            self.collected.append(Anomaly(kind or "class", "", str(error)))

    def missing(self, keys: Sequence[K], error: Callable[[K, str], RequestError]) -> None:
        """Report files that are not on disk: each, or the first with the number of the others.

        Args:
            keys: keys of the files.
            error: makes the error from a key and an addition to its first sentence.
        """
        if keys and not self.collecting:
            raise error(keys[0], f" (nor {len(keys) - 1} more)" if len(keys) > 1 else "")
        for key in keys:
            self.tell(error(key, ""), "missing")

    def __enter__(self) -> None:
        """Begin a line or entry."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Keep the fault of a line or entry if faults are collected."""
        if not (self.collecting and isinstance(error, RequestError)):
            return False
        self.tell(error)
        return True
