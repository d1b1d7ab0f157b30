"""Digests of what is stored: a file that was altered since it was written is never taken for what was computed.

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

FILE = "digests.json"
"""In a folder of results: the sha256 of every other file in it, by its path there. Older folders have none."""

GROWING = ("log.txt",)
"""Files that are written to after the folder is complete: they have no digest."""

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


class Changed(RequestError):
    """A stored file is not what was written; the message names it and begins with its path."""


def fingerprint(content: Any) -> str:
    """Twelve hexadecimal digits of the canonical JSON."""
    return hashlib.sha256(_CANONICAL.encode(content).encode()).hexdigest()[:12]


def seal_of(content: Mapping[str, Any]) -> str:
    """Return the sha256 of JSON content, to be kept beside it."""
    return hashlib.sha256(_CANONICAL.encode(content).encode()).hexdigest()


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file's bytes in hexadecimal digits.

    Raises:
        OSError: where it cannot be read.
    """
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def digests_of(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder by its path there, for :data:`FILE`."""
    files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {name: sha256_of(file) for name, file in files.items() if name not in (FILE, *GROWING)}


def known_digests(folder: Path) -> dict[str, str] | None:
    """Return what a folder's :data:`FILE` says; ``None`` where the folder is older than such files.

    Raises:
        Changed: where it is damaged.
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
    """Return the bytes of a file of the folder, as they were written.

    Raises:
        Changed: where they are others.
        OSError: where the file cannot be read.
    """
    content = (folder / name).read_bytes()
    _compare(folder, name, hashlib.sha256(content).hexdigest())
    return content


def verify_file(folder: Path, name: str) -> None:
    """As :func:`read_verified`, for a large file that is read by another library.

    Raises:
        Changed: where its bytes are not those that were written.
        OSError: where it cannot be read.
    """
    _compare(folder, name, sha256_of(folder / name) if (folder / FILE).exists() else "")


def verify_folder(folder: Path) -> None:
    """Check every file that the folder has a digest of.

    Raises:
        Changed: naming the first that is not what was written, or not there.
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
