"""Search for the folder of a data set on this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from bench.contract import RequestError
from bench.core.yaml12 import parse

VARIABLE = "BENCH_DATA"
# Most folders that a message names.
_MOST = 3
# Synthetic birds, which are drawn in the layout of CUB; nobody who asks for CUB means them.
_DRAWN = re.compile(r"demo-\d+")


def base(data_root: Path | None, home: Path) -> tuple[Path, str]:
    """Return the folder in which data sets are looked for, and the setting that named it.

    The first of these that is given: ``data_root``, the environment's ``BENCH_DATA``, ``home/data``.
    """
    if data_root is not None:
        return data_root.expanduser(), "--data-root"
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser(), f"${VARIABLE}"
    return home / "data", "the default"


def locate(
    folder: str, data_root: Path | None, home: Path, markers: Sequence[str] = (), dataset: str | None = None
) -> Path:
    """Return the folder of a data set.

    The folder of :func:`base` either holds ``folder`` or is the data set itself. If ``folder`` is no data set but holds
    exactly one, as archives unpacked into a folder leave it, it is that one. Any one of the ``markers`` (files or
    folders such as ``images.txt``) identifies it, and without markers its name; ``dataset`` is its name in ``--set``,
    for advice.

    Raises:
        RequestError: if it is missing, naming the searched folder and the option to pass.
    """
    place, source = base(data_root, home)
    for tree, fits in ((place / folder, True), (place, bool(markers) or place.name == folder)):
        if fits and any((tree / marker).exists() for marker in markers or [""]):
            return tree
    inside = [place / folder / name for name in nearby(place / folder, markers)]
    if len(inside) == 1:
        return inside[0]
    missing = (place / folder / (markers[0] if markers else "")).relative_to(place)
    problem = f"has no {missing}" if place.is_dir() else "is not a folder"
    if len(inside) > 1:
        problem += f" itself but in {inside[0].name}/ and {inside[1].name}/ (name one: --data-root {inside[0]})"
    name = "the data set" if folder == "." else folder
    others = nearby(place, markers) if dataset else []
    if dataset and others:
        raise RequestError(f"{name} not found: {place} ({source}) {problem}; {advice(dataset, others)}")
    raise RequestError(
        f"{name} not found: {place} ({source}) {problem}; pass --data-root DIR, the folder that holds {name}, "
        "or that tree itself; `python -m bench data list` prints how to get it"
    )


def nearby(place: Path, markers: Sequence[str]) -> list[str]:
    """Return the names of the folders in ``place`` that have one of the markers (other than ``.``, which all have)."""
    specific = [marker for marker in markers if marker != "."]
    try:
        inside = sorted(path for path in place.iterdir() if not path.name.startswith("."))
    except OSError:
        return []
    candidates = [path for path in inside if not _DRAWN.fullmatch(path.name)]
    return [path.name for path in candidates if any(_exists(path / marker) for marker in specific)]


def advice(dataset: str, folders: Sequence[str]) -> str:
    """Return the ``--set`` option by which a data set is read from one of these folders of the data root."""
    shown = list(folders[:_MOST])
    names = [*shown, *([f"{len(folders) - _MOST} more"] if len(folders) > _MOST else [])]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)
    pairs = " or ".join(f"--set {shlex.quote(f'{dataset}.folder={_written(name)}')}" for name in shown)
    return f"{listed} in that folder {'have' if names[1:] else 'has'} this layout: add {pairs}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder that may not be looked into
        return False


def _written(folder: str) -> str:
    """Quote a folder name for ``--set``: 2011 alone would be a number, a comma would separate two values."""
    try:
        plain = not set(",#") & set(folder) and parse(folder, "folder") == folder
    except RequestError:
        plain = False
    return folder if plain else json.dumps(folder)
