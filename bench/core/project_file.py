"""Defaults of one project: ``partbench.toml`` in the working directory, read by every command and by ``bench.run``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core import registry
from bench.core.errors import RequestError

FILE = Path("partbench.toml")
KEYS = ("data-root", "home", "plugins")


@dataclass(frozen=True)
class ProjectFile:
    """Content of the file; what it does not have is ``None`` or empty.

    Attributes:
        plugins: files that register methods, metrics or data sets, beside those of ``BENCH_PLUGINS`` and ``--plugin``.
        home: folder of results, data and black boxes; ``BENCH_HOME`` counts instead.
        data_root: folder of the data sets; ``--data-root`` counts instead.
    """

    plugins: tuple[Path, ...] = ()
    home: Path | None = None
    data_root: Path | None = None

    def __str__(self) -> str:
        """Return the file's name and what it sets, in one line."""
        named = (("home", self.home), ("data-root", self.data_root), ("plugins", ", ".join(map(str, self.plugins))))
        return f"{FILE}: {', '.join(f'{key} {value}' for key, value in named if value)}"


def project_file() -> ProjectFile | None:
    """Read the file of the working directory; ``None`` without one. Relative paths are relative to it.

    Raises:
        RequestError: if the file is no TOML, or a key or a value is wrong; the message has the key.
    """
    if not FILE.is_file():
        return None
    try:
        found = tomllib.loads(FILE.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"{FILE}: cannot be read as TOML ({error})") from error
    for key in found:
        if key not in KEYS:
            raise RequestError(f"{FILE}: no key {registry.quoted(key)}{registry.nearest(key, KEYS)}")
    plugins = found.get("plugins", [])
    if not isinstance(plugins, list):
        raise RequestError(f'{FILE}: plugins: write a list of files, plugins = ["mine.py"]')
    return ProjectFile(
        tuple(_path("plugins", one) for one in plugins),
        *(_path(key, found[key]) if key in found else None for key in ("home", "data-root")),
    )


def _path(key: str, value: Any) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise RequestError(f"{FILE}: {key}: {registry.quoted(str(value))} is no path in quotes")
    return Path(value).expanduser()
