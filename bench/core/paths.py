"""Folders of the harness: its home, and configuration files of the user and of the package.

No torch is imported, so that listing and drawing start quickly.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from bench.core import registry
from bench.core.errors import RequestError
from bench.core.project_file import FILE, project_file

ConfigKind = Literal["backbones", "datasets", "methods", "suites"]
# The YAML files that come with the package; in a checkout a link to ``configs/``.
PACKAGED_CONFIGS = Path(__file__).resolve().parent / "_configs"


def home() -> Path:
    """Return ``BENCH_HOME``, else the project file's ``home``, else ``.bench`` in the working directory.

    Raises:
        RequestError: if its path is no UTF-8, or the project file is wrong.
    """
    if "BENCH_HOME" not in os.environ and (project := project_file()) and project.home:
        return decodable(project.home, f"{FILE}: home")
    return decodable(Path(os.environ.get("BENCH_HOME", ".bench")), "BENCH_HOME")


def data_root() -> Path | None:
    """Return the project file's folder of the data sets, if it has one."""
    project = project_file()
    return project and project.data_root


def decodable(folder: Path, option: str) -> Path:
    """Return the folder if safetensors and SQLite can open files in it.

    Raises:
        RequestError: if its path is no UTF-8.
    """
    if not is_text(str(folder.absolute())):
        raise RequestError(
            f"{option} {folder.absolute()}: weights cannot be kept under a path that is no UTF-8; choose another"
        )
    return folder


def is_text(name: str) -> bool:
    """Return whether a name is text: Python holds other bytes of file names as surrogates (PEP 383)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def all_plugins(given: Iterable[Path] = ()) -> tuple[Path, ...]:
    """Return the plugin files of the project file, of ``BENCH_PLUGINS`` (as in ``PATH``), and the given ones."""
    project = project_file()
    named = filter(None, os.environ.get("BENCH_PLUGINS", "").split(os.pathsep))
    return tuple(dict.fromkeys([*(project.plugins if project else ()), *map(Path, named), *given]))


def config_folders() -> list[Path]:
    """Return the folders that hold configuration files: ``BENCH_CONFIGS`` if set, the package's own, those of plugins.

    Raises:
        RequestError: if ``BENCH_CONFIGS`` names no folder.
    """
    # Plugins come last: none changes what the package or the user has configured.
    folders = [PACKAGED_CONFIGS, *registry.plugin_configs()]
    configured = os.environ.get("BENCH_CONFIGS")
    if not configured:
        return folders
    if not Path(configured).is_dir():
        raise RequestError(f"BENCH_CONFIGS (--config-dir) {configured}: no such folder")
    return [Path(configured), *folders]


def config_files(kind: ConfigKind) -> dict[str, Path]:
    """Return the configuration files of a kind by name, sorted; a user's file replaces the package's of that name."""
    # Of two files of one name the later counts: the user's folder is the last.
    files = {file.stem: file for folder in reversed(config_folders()) for file in (folder / kind).glob("*.yaml")}
    return dict(sorted(files.items()))


def config_file(kind: ConfigKind, name: str) -> Path:
    """Return the configuration file of that name; it need not exist."""
    files = [folder / kind / f"{name}.yaml" for folder in config_folders()]
    return next((file for file in files if file.is_file()), files[-1])
