"""From the name of a data set to the data set: found on disk, or drawn."""

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
from bench.data.faults import Faults
from bench.data.left_out import NOTHING, as_text
from bench.data.locate import locate


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
    """The data set, read from where it lies; where it has no folder it is drawn first.

    What its reader left out is noted.

    Args:
        name: as the user said it.
        reader: name in the catalogue.
        folder: usual folder name; ``None``: drawn by the project.
        data_root: what ``--data-root`` says.
        home: ``BENCH_HOME``.
        progress: where drawing is counted.
        options: settings of the reader.
        faults: where they are collected instead of raised, by readers that can.

    Raises:
        RequestError: where it is not found, or its annotation files are broken.
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
    root = drawn(home, progress) if folder is None else locate(folder, data_root, home, markers, name)
    collected = {"faults": faults} if faults is not None and "faults" in signature else {}
    dataset: Dataset = kind(root, cache=home / "digests", **options, **collected)
    left_out = as_text(getattr(dataset, "left_out", NOTHING))
    if left_out:
        progress.note(f"{name}: {left_out}")
    code = registry.code("datasets", reader)
    return dataset if code is None else ReadByPlugin(dataset, code.digest)


class ReadByPlugin:
    """A data set whose content follows from its files and from the code of the plugin that reads them.

    Attributes:
        digest: of both: what was prepared from other code is not this data.
    """

    def __init__(self, dataset: Dataset, code: str) -> None:
        self.dataset = dataset
        self.digest = hashlib.sha256(f"{dataset.digest} {code}".encode()).hexdigest()[:16]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet while a copy is being made
            raise AttributeError(name)
        return getattr(self.dataset, name)


def drawn(home: Path, progress: Progress) -> Path:
    """The folder of the demo birds; they are drawn where they are not there yet."""
    root = home / "data" / f"demo-{synthetic.VERSION}"
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
