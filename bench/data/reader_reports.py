"""Reports of a reader: problems of a data set, raised or collected, and counts of files that were left out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar

from bench.contract import RequestError

K = TypeVar("K")

# Advice on a file that may be the authors', or a user's in the same layout.
OFFICIAL = "mend it or, if it is from the official archive, unpack the official archive again"


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
    """

    def __init__(self, collecting: bool = False) -> None:
        self.collecting = collecting
        self.collected: list[Anomaly] = []

    def report(self, error: RequestError, kind: str = "") -> None:
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
            self.report(error(key, ""), "missing")

    def __enter__(self) -> None:
        """Begin a line or entry."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Keep the fault of a line or entry if faults are collected."""
        if not (self.collecting and isinstance(error, RequestError)):
            return False
        self.report(error)
        return True


# ``{reason: {"files": number, "example": path of one}}``, the form that is stored in results.
LeftOutRecord = Mapping[str, Mapping[str, Any]]

NOTHING: LeftOutRecord = MappingProxyType({})

# Characters of an example; of a longer path the end is kept.
_LONGEST = 200


class LeftOut:
    """Counter of files that were left out, by reason, in the order in which the reasons came up.

    Paths of examples are relative to ``root``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._counts: dict[str, tuple[int, Path]] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, reason: str, path: Path, count: int = 1) -> None:
        """Count a file, or all the ``count`` files of a folder."""
        before, first = self._counts.get(reason, (0, path))
        self._counts[reason] = before + count, first

    def extend(self, reason: str, paths: Sequence[Path]) -> None:
        """Count some files."""
        if paths:
            self.add(reason, paths[0], len(paths))

    def take(self, other: LeftOut) -> None:
        """Add the counts of another counter."""
        for reason, (count, path) in other._counts.items():
            self.add(reason, path, count)

    def record(self) -> dict[str, dict[str, Any]]:
        """Return it as :data:`LeftOutRecord`."""
        return {
            reason: {"files": count, "example": _name(path, self.root)}
            for reason, (count, path) in self._counts.items()
        }


def as_text(record: LeftOutRecord) -> str:
    """Return a line such as ``left out: hidden: 4 (a/.x), not an image: 1 (b/notes.txt)``; empty for nothing."""
    counts = [f"{reason}: {entry['files']} ({entry['example']})" for reason, entry in record.items()]
    return f"left out: {', '.join(counts)}" if counts else ""


def _name(path: Path, root: Path) -> str:
    """Return a path in ``root`` that can be printed and written; bytes that are no UTF-8 are escaped."""
    with contextlib.suppress(ValueError):  # it is outside root
        path = path.relative_to(root)
    name = path.as_posix().encode("utf-8", "backslashreplace").decode()
    return name if len(name) <= _LONGEST else f"...{name[-_LONGEST:]}"
