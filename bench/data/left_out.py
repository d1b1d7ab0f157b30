"""Counts of files that a reader left out, by reason, with an example of each."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

Record = Mapping[str, Mapping[str, Any]]
"""``{reason: {"files": number, "example": path of one}}``, the form that is stored in results."""

NOTHING: Record = MappingProxyType({})


_LONGEST = 200
"""Characters of an example; of a longer path the end is kept."""


class LeftOut:
    """Counter of files that were left out, by reason, in the order in which the reasons came up.

    Args:
        root: the folder to which the paths of examples are relative.
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
        """Return it as :data:`Record`."""
        return {
            reason: {"files": count, "example": _name(path, self.root)}
            for reason, (count, path) in self._counts.items()
        }


def as_text(record: Record) -> str:
    """Return a line such as ``left out: hidden: 4 (a/.x), not an image: 1 (b/notes.txt)``; empty for nothing."""
    counts = [f"{reason}: {entry['files']} ({entry['example']})" for reason, entry in record.items()]
    return f"left out: {', '.join(counts)}" if counts else ""


def _name(path: Path, root: Path) -> str:
    """Return a path in ``root`` that can be printed and written; bytes that are no UTF-8 are escaped."""
    with contextlib.suppress(ValueError):  # it is outside root
        path = path.relative_to(root)
    name = path.as_posix().encode("utf-8", "backslashreplace").decode()
    return name if len(name) <= _LONGEST else f"...{name[-_LONGEST:]}"
