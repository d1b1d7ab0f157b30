"""Opening of data sets by name: located on disk, or drawn."""

from __future__ import annotations

import hashlib
import inspect
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.contract import Dataset, Progress, RequestError
from bench.core import registry
from bench.core.work_dir import WorkDir
from bench.data import synthetic
from bench.data.locate import locate
from bench.data.reader_reports import NOTHING, Faults, as_text


def open_dataset(
    name: str,
    reader: str,
    folder: str | None,
    data_root: Path | None,
    home: Path,
    progress: Progress,
    options: Mapping[str, Any] | None = None,
    faults: Faults | None = None,
) -> Any:
    """Locate and read a data set; synthetic data are drawn first.

    Files that its reader left out are noted. The reader is a name in the catalogue; without a ``folder``, the usual
    one's name, data are synthetic.

    Raises:
        RequestError: if it is not found, or its annotation files are broken.
    """
    kind, options = registry.load("datasets", reader), options or {}
    signature = inspect.signature(kind).parameters
    known = signature.keys() - {"root", "cache", "faults"}
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values())
    for option in options:
        if option not in known and not open_ended:
            raise RequestError(
                f"{name}.options.{option}: unknown setting{registry.nearest(option, known) if known else ''}"
            )
    markers = getattr(kind, "markers", ())
    root = synthetic_folder(home, progress) if folder is None else locate(folder, data_root, home, markers, name)
    collected = {"faults": faults} if faults is not None and "faults" in signature else {}
    dataset: Dataset = kind(root, cache=home / "digests", **options, **collected)
    left_out = as_text(getattr(dataset, "left_out", NOTHING))
    if left_out:
        progress.note(f"{name}: {left_out}")
    code = registry.code("datasets", reader)
    return dataset if code is None else PluginDataset(dataset, code.digest)


class PluginDataset:
    """Data set whose content follows from its files and from the code of the plugin that reads them.

    Attributes:
        digest: hash of both, so that a cache made by other code is not used.
    """

    def __init__(self, dataset: Dataset, code: str) -> None:
        self.dataset = dataset
        self.digest = hashlib.sha256(f"{dataset.digest} {code}".encode()).hexdigest()[:16]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not set yet while copy or pickle make an instance
            raise AttributeError(name)
        return getattr(self.dataset, name)


def demo_folder(home: Path) -> Path:
    """Return the folder of the synthetic birds, whether they are drawn or not."""
    return home / "data" / f"demo-{synthetic.VERSION}"


def synthetic_folder(home: Path, progress: Progress) -> Path:
    """Return the folder of the synthetic birds, which are drawn if they are missing."""
    root = demo_folder(home)
    # Locked: of two first runs at once, one draws and the other waits for it.
    with WorkDir(home / "data" / ".demo").claim():
        if not root.is_dir():
            for leftover in root.parent.glob(f".{root.name}.*"):
                shutil.rmtree(leftover)  # of a process that was killed while drawing
            _draw(root, progress)
    return root


def _draw(root: Path, progress: Progress) -> None:
    bar: Any = None

    def count(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or iter(progress.track(range(total), "birds drawn", total))
        next(bar, None)

    synthetic.draw(root, progress=count)
    next(bar, None)
