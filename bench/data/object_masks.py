"""Object masks of a split, cut and resized like its images, memory-mapped beside their cache."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.contract import Dataset, Progress
from bench.core import locks
from bench.core.files import ordered_map
from bench.core.integrity import digests_of
from bench.data.cache import CachedSplit, allocate, check_large_file
from bench.data.preprocessing import Preprocessing

FILE = "masks.npy"


def with_masks(
    split: CachedSplit, name: str, dataset: Dataset, protocol: Preprocessing, images: Path, progress: Progress
) -> CachedSplit:
    """Return the split with the masks of its images; without them if the data set has none.

    They are prepared once, apart from the images, since few metrics read them: 50 kB each at 224 pixels. They keep
    their grey levels, so that a threshold is the metric's.

    Raises:
        CellError: naming a mask that cannot be read, or that has another size than its image.
    """
    if "mask" not in dataset.provides:
        return split
    folder = images.with_name(f"{images.name}-masks-{name}")
    with locks.exclusive(folder.with_name(f"{folder.name}.lock")):
        # Whatever a damaged file leads to, it is written again.
        with contextlib.suppress(Exception):
            return _open(split, folder)
        shutil.rmtree(folder, ignore_errors=True)
        for leftover in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
        temporary.mkdir(parents=True)
        try:
            _write(split, name, dataset, protocol, temporary / FILE, progress)
            (temporary / "meta.json").write_text(json.dumps(digests_of(temporary)), encoding="utf-8")
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return _open(split, folder)


def _open(split: CachedSplit, folder: Path) -> CachedSplit:
    check_large_file(folder / FILE, json.loads((folder / "meta.json").read_text(encoding="utf-8"))[FILE])
    masks = np.load(folder / FILE, mmap_mode="r")
    if masks.shape != (len(split), split.size, split.size):
        raise ValueError(f"wrong sizes in {folder / FILE}")
    return replace(split, masks=np.asarray(masks))


def _write(
    split: CachedSplit, name: str, dataset: Dataset, protocol: Preprocessing, file: Path, progress: Progress
) -> None:
    records = {record.id: record for record in dataset.split(name)}
    masks = allocate(file, (len(split), split.size, split.size))

    def work(row: int) -> None:
        masks[row] = protocol.mask(records[split.ids[row]])

    for _ in progress.track(ordered_map(work, range(len(split))), f"masks of {name}", len(split)):
        pass
    masks.flush()
