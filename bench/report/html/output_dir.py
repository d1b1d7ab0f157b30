"""Folder of a report: file names that are safe for any text, and no foreign file touched."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from bench.core.errors import RequestError

_LIST = "partbench-report.json"
# Characters of a text that its file name keeps.
_LONGEST = 60


def file_name(text: str) -> str:
    """Return a text as a file's name: the text itself if it is harmless, else its harmless part and a hash.

    Example:
        >>> file_name("protopnet")
        'protopnet'
        >>> file_name("../ours (k=5)")
        'ours-k-5-7376bcdf'
    """
    # Lower case: two names must not be one file on a file system that ignores case.
    kept = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")[:_LONGEST]
    if kept and kept == text:
        return kept
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{kept}-{digest[:8]}".lstrip("-")


class ReportFolder:
    """Folder in which a report's files are written, and an earlier report's unneeded files are removed.

    Args:
        path: folder, which is created if it does not exist.

    Raises:
        RequestError: if it contains something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written: list[str] = []
        try:
            path.mkdir(parents=True, exist_ok=True)
            there = {one.name for one in path.iterdir()}
        except OSError as error:
            raise RequestError(f"{path}: {error.strerror}; choose another folder with --out-dir") from error
        if there and _LIST not in there:
            raise RequestError(f"{path} is not empty and holds no report: choose another folder with --out-dir")
        self._before = self._read_list() if there else []

    def write(self, name: str, text: str) -> None:
        """Write one file.

        Args:
            name: path in the folder, with slashes.
            text: its content.
        """
        if not self._written:
            # From the first file on: a folder that a kill left half-written is recognised as a report's.
            self._write_list(self._before)
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        self._written.append(name)

    def keep(self, file: Path) -> str:
        """Count a file that others wrote into the folder as the report's, and return its path in the folder."""
        name = file.relative_to(self.path).as_posix()
        self._written.append(name)
        # Pictures take long: one that a killed report has left is known to the next.
        self._write_list([*self._before, *self._written])
        return name

    def finish(self) -> None:
        """Remove the files that an earlier report left behind."""
        root = self.path.resolve()
        for name in set(self._before) - set(self._written):
            file = self.path / name
            # The list is a file like any other: its content is not to be trusted.
            if file.resolve().is_relative_to(root) and file.is_file():
                file.unlink()
        self._write_list(self._written)

    def _read_list(self) -> list[str]:
        try:
            content = json.loads((self.path / _LIST).read_text(encoding="utf-8"))
            return [str(name) for name in content["files"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(
                f"{self.path / _LIST} cannot be read ({error}): delete the folder and try again"
            ) from error

    def _write_list(self, names: list[str]) -> None:
        text = json.dumps({"files": sorted(set(names))}, indent=1)
        (self.path / _LIST).write_text(text + "\n", encoding="utf-8")
