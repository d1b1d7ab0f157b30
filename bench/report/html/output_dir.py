"""Folder of a report: file names that are safe for any text, and no foreign file touched."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        # By file: the digest of what it is made from, "" if it has none; in the list also that of its content.
        self._sources: dict[str, str] = {}
        self._known: dict[str, list[Any]] = {}
        self._whole = ""
        try:
            path.mkdir(parents=True, exist_ok=True)
            there = {one.name for one in path.iterdir()}
        except OSError as error:
            raise RequestError(f"{path}: {error.strerror}; choose another folder with --out-dir") from error
        if there and _LIST not in there:
            raise RequestError(f"{path} is not empty and holds no report: choose another folder with --out-dir")
        self._before = self._read_list() if there else []

    def is_made_from(self, sources: str) -> bool:
        """Return whether the folder has a whole report from these sources, and no file of it was changed since."""
        return self._whole == sources and all(map(self._is_untouched, self._before))

    def has(self, name: str, sources: str) -> bool:
        """Return whether a page was made from these sources and is unchanged; it is then kept."""
        if self._known.get(name, [""])[0] != sources or not self._is_untouched(name):
            return False
        self._sources[name] = sources
        self._written.append(name)
        return True

    def _is_untouched(self, name: str) -> bool:
        file = self.path / name
        return name in self._known and file.is_file() and self._known[name][1:] == [_content(file)]

    def write(self, name: str, text: str, sources: str = "") -> None:
        """Write one file, unless it has that content.

        Args:
            name: path in the folder, with slashes.
            text: its content.
            sources: digest of what it is made from, for :meth:`has`.
        """
        if not self._written:
            # From the first file on: a folder that a kill left half-written is recognised as a report's.
            self._write_list(self._before)
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content = text.encode()
        if not file.is_file() or file.read_bytes() != content:
            file.write_bytes(content)
        self._sources[name] = sources
        self._written.append(name)

    def keep(self, file: Path) -> str:
        """Count a file that others wrote into the folder as the report's, and return its path in the folder."""
        name = file.relative_to(self.path).as_posix()
        self._written.append(name)
        # Pictures take long: one that a killed report has left is known to the next.
        self._write_list([*self._before, *self._written])
        return name

    def finish(self, sources: str = "") -> None:
        """Remove the files that an earlier report left behind; ``sources`` is the digest for :meth:`is_made_from`."""
        root = self.path.resolve()
        for name in set(self._before) - set(self._written):
            file = self.path / name
            # The list is a file like any other: its content is not to be trusted.
            if file.resolve().is_relative_to(root) and file.is_file():
                file.unlink()
        made = {name: [self._sources.get(name, ""), _content(self.path / name)] for name in set(self._written)}
        self._write_list(self._written, {"sources": sources, "made_from": made})

    def _read_list(self) -> list[str]:
        try:
            content = json.loads((self.path / _LIST).read_text(encoding="utf-8"))
            made = dict(content.get("made_from", {})).items()
            self._known = {str(name): found for name, found in made if isinstance(found, list) and found}
            self._whole = content.get("sources", "")
            return [str(name) for name in content["files"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RequestError(
                f"{self.path / _LIST} cannot be read ({error}): delete the folder and try again"
            ) from error

    def _write_list(self, names: list[str], more: Mapping[str, Any] | None = None) -> None:
        text = json.dumps({"files": sorted(set(names)), **(more or {})}, indent=1)
        (self.path / _LIST).write_text(text + "\n", encoding="utf-8")


def _content(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
