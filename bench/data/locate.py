"""Where a data set lies on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from bench.contract import RequestError

VARIABLE = "BENCH_DATA"


def locate(folder: str, data_root: Path | None, home: Path, marker: str | None = None) -> Path:
    """The tree of a data set.

    Looked for in one place only, the first of these that is given: ``data_root``, the environment's
    ``BENCH_DATA``, ``home/data``. That place either holds ``folder`` or is such a tree itself.

    Args:
        folder: the data set's usual folder name, for example ``CUB_200_2011``.
        data_root: what the user passed as ``--data-root``.
        home: the harness's own folder (``BENCH_HOME``).
        marker: a file or folder inside that tells such a tree from others, for example ``images.txt``; without
            one a tree is recognised by its name.

    Raises:
        RequestError: where it is not there: one line with where was looked and what to pass.
    """
    if data_root is not None:
        base, source = data_root.expanduser(), "--data-root"
    elif os.environ.get(VARIABLE):
        base, source = Path(os.environ[VARIABLE]).expanduser(), f"${VARIABLE}"
    else:
        base, source = home / "data", "the default"
    for tree, fits in ((base / folder, True), (base, marker is not None or base.name == folder)):
        if fits and (tree / (marker or "")).exists():
            return tree
    missing = base / folder / (marker or "")
    problem = f"has no {missing.relative_to(base)}" if base.is_dir() else "is not a folder"
    raise RequestError(
        f"{folder} not found: {base} ({source}) {problem}; pass --data-root DIR, the folder that holds {folder}, "
        "or that tree itself"
    )
