"""Files of a finished cell's result, read in one way from a store's folder and from a published archive."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

from bench.core.content_digest import state_of
from bench.core.integrity import FILE as DIGESTS
from bench.core.integrity import read_verified

_TRUTH = {"True": True, "False": False}


class ResultFiles(Protocol):
    """Files beside ``result.json``: the curves and the tables of items.

    Attributes:
        remedy: how to mend a file that was changed.
    """

    remedy: str

    def path(self, name: str) -> Path:
        """Return the place of a file, to be printed."""

    def names(self, pattern: str) -> list[str]:
        """Return the names of the files that fit a pattern such as ``items/*.csv``, sorted."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: if there is none.
            Changed: if they are not those that were written.
        """

    def table(self, name: str) -> dict[str, Any]:
        """Return the columns of a table as arrays, in their order.

        Raises:
            FileNotFoundError: if there is none.
            Changed: if it is not the one that was written.
            ValueError: if it is no table of numbers.
        """

    def state(self) -> list[str]:
        """Return a text for each file that changes whenever the file is touched."""


class FolderFiles:
    """Files in the ``result`` folder of a cell; see :class:`ResultFiles`."""

    remedy = "`run --existing rerun` computes it again"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        """Return the place of a file."""
        return self._folder / name

    def names(self, pattern: str) -> list[str]:
        """Return the names that fit a pattern."""
        return sorted(file.relative_to(self._folder).as_posix() for file in self._folder.glob(pattern))

    def read(self, name: str) -> bytes:
        """Return the verified bytes of a file."""
        return read_verified(self._folder, name)

    def table(self, name: str) -> dict[str, Any]:
        """Return the columns of a table."""
        return parse_table(self.read(name))

    def state(self) -> list[str]:
        """Return what changes with the files."""
        # The digests decide whether a table may be read at all; older results have none.
        # Listed by os: for thousands of cells a Path of each file would take longer than all else.
        beside = [entry for entry in _entries(self._folder) if entry.name in ("result.json", DIGESTS)]
        return [f"{entry.name} {state_of(entry)}" for entry in (*_entries(self._folder / "items"), *beside)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


def parse_table(text: bytes) -> dict[str, Any]:
    """Return the columns of a table of numbers in CSV: whole numbers, others, or truth values.

    Raises:
        ValueError: if it is none; :class:`NotNumbers` if it holds something else than numbers.
    """
    try:
        names, *rows = csv.reader(io.StringIO(text.decode()))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if {*map(len, rows)} - {len(names)}:
        raise ValueError("its rows have different lengths")
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return dict(zip(names, map(_numbers, columns), strict=True))


def _numbers(texts: Sequence[str]) -> Any:
    """Return a column as an array, exact to the bit, which ``pandas.read_csv`` is not by default."""
    # Imported here: only those who ask for intervals need it.
    import numpy as np

    for kind, dtype in ((int, np.int64), (float, np.float64), (_TRUTH.__getitem__, np.bool_)):
        try:
            return np.fromiter(map(kind, texts), dtype, len(texts))
        except (ValueError, OverflowError, KeyError):
            continue
    raise NotNumbers


class NotNumbers(ValueError):
    """Table of items with a column of texts."""


def matching(names: Mapping[str, Any], pattern: str) -> list[str]:
    """Return the names that fit a pattern, sorted; a star stands for no slash, as in a glob of a folder."""
    return sorted(name for name in names if fnmatch(name, pattern) and name.count("/") == pattern.count("/"))
