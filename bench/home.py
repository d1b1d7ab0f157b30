"""Where everything of the harness lies. Nothing here imports torch: `bench figure` starts quickly."""

from __future__ import annotations

import os
from pathlib import Path

from bench.errors import RequestError


def home() -> Path:
    """Return ``BENCH_HOME``, by default ``.bench`` in the working directory.

    Raises:
        RequestError: where its path is no UTF-8.
    """
    return decodable(Path(os.environ.get("BENCH_HOME", ".bench")), "BENCH_HOME")


def decodable(folder: Path, what: str) -> Path:
    """Return a folder to write to, which safetensors and SQLite can open.

    Args:
        folder: its path.
        what: names it.

    Raises:
        RequestError: where its path is no UTF-8.
    """
    if not is_text(str(folder.absolute())):
        raise RequestError(
            f"{what} {folder.absolute()}: weights cannot be kept under a path that is no UTF-8; choose another"
        )
    return folder


def is_text(name: str) -> bool:
    """Return whether a name is text: Python holds other bytes of file names as halves of letters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
