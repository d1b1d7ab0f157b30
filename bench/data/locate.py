"""Where a data set lies on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bench.contract import RequestError

VARIABLE = "BENCH_DATA"


def base(data_root: Path | None, home: Path) -> tuple[Path, str]:
    """The one place where data sets are looked for, and what named it.

    The first of these that is given: ``data_root``, the environment's ``BENCH_DATA``, ``home/data``.
    """
    if data_root is not None:
        return data_root.expanduser(), "--data-root"
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser(), f"${VARIABLE}"
    return home / "data", "the default"


def locate(folder: str, data_root: Path | None, home: Path, markers: Sequence[str] = ()) -> Path:
    """The tree of a data set.

    The place of :func:`base` either holds ``folder`` or is such a tree itself.

    Args:
        folder: the data set's usual folder name, for example ``CUB_200_2011``.
        data_root: what the user passed as ``--data-root``.
        home: the harness's own folder (``BENCH_HOME``).
        markers: files or folders inside, of which any one tells such a tree from others, for example
            ``images.txt``; without them a tree is recognised by its name.

    Raises:
        RequestError: where it is not there: one line with where was looked and what to pass.
    """
    place, source = base(data_root, home)
    for tree, fits in ((place / folder, True), (place, bool(markers) or place.name == folder)):
        if fits and any((tree / marker).exists() for marker in markers or [""]):
            return tree
    missing = (place / folder / (markers[0] if markers else "")).relative_to(place)
    problem = f"has no {missing}" if place.is_dir() else "is not a folder"
    name = "the data set" if folder == "." else folder
    raise RequestError(
        f"{name} not found: {place} ({source}) {problem}; pass --data-root DIR, the folder that holds {name}, "
        "or that tree itself; `python -m bench data list` says how to get it"
    )
