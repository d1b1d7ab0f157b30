"""Integrity of stored files: one that was altered since it was written never passes for the computed one.

They guard against mistakes and damage (a tool that rewrote a file, a copy that went wrong, an edit by hand), not
against a forger, who could rewrite them too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import RequestError

# File in a folder of results with the sha256 of every other file by its relative path. Older folders have none.
FILE = "digests.json"

# Files that are written to after the folder is complete: they have no digest.
GROWING = ("log.txt",)

# Sorted and without spaces: equal content has one spelling, and so one digest.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


class Changed(RequestError):
    """Stored file that differs from the written one; the message begins with its path."""


def fingerprint(content: Any) -> str:
    """Return twelve hexadecimal digits of the sha256 of the canonical JSON.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(_CANONICAL.encode(content).encode()).hexdigest()[:12]


def seal_of(content: Mapping[str, Any]) -> str:
    """Return the sha256 of JSON content, to be kept beside it."""
    return hashlib.sha256(_CANONICAL.encode(content).encode()).hexdigest()


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file's bytes in hexadecimal digits.

    Raises:
        OSError: if it cannot be read.
    """
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def digests_of(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder by its relative path, for :data:`FILE`."""
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {name: sha256_of(file) for name, file in files.items() if name not in (FILE, *GROWING)}


def known_digests(folder: Path) -> dict[str, str] | None:
    """Return the content of a folder's :data:`FILE`; ``None`` if the folder is older than such files.

    Raises:
        Changed: if it is damaged.
    """
    file = folder / FILE
    try:
        content: Any = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise Changed(f"{file} cannot be read ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise Changed(f"{file} cannot be read (it must hold the sha256 of each file by its name)")
    return content


def read_verified(folder: Path, name: str) -> bytes:
    """Return the bytes of a file of the folder after comparing them with its digest.

    Raises:
        Changed: if they are not those that were written.
        OSError: if the file cannot be read.
    """
    content = (folder / name).read_bytes()
    _compare(folder, name, hashlib.sha256(content).hexdigest())
    return content


def verify_file(folder: Path, name: str) -> None:
    """Compare a large file, which another library reads, with its digest.

    Raises:
        Changed: if its bytes are not those that were written.
        OSError: if it cannot be read.
    """
    _compare(folder, name, sha256_of(folder / name) if (folder / FILE).exists() else "")


def verify_folder(folder: Path) -> None:
    """Compare every file that the folder has a digest of.

    Raises:
        Changed: for the first that is missing or not the one that was written.
    """
    for name in known_digests(folder) or {}:
        try:
            verify_file(folder, name)
        except OSError as error:
            raise Changed(f"{folder / name} cannot be read ({error.strerror or error})") from error


def _compare(folder: Path, name: str, digest: str) -> None:
    known = known_digests(folder)
    if known is not None and known.get(name) != digest:
        raise Changed(f"{folder / name} was changed after it was written")
