"""Whether a data set on disk is what it says it is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.contract import CellError, Dataset, Progress, Record
from bench.core.threads import ordered_map
from bench.data.base import Figures
from bench.data.cache import SPLITS
from bench.data.decoding import decode


@dataclass(frozen=True)
class Anomaly:
    """One thing that is wrong.

    Attributes:
        kind: ``count``, ``class``, ``image``, ``box``, ``keypoint``, ``mask`` or ``leak``.
        where: the record's id, or what else it is about.
        what: in words.
    """

    kind: str
    where: str
    what: str


@dataclass(frozen=True)
class Report:
    """What was looked at and found.

    Attributes:
        images: how many of each split.
        classes: how many.
        compared: what the counts were compared with.
        anomalies: all that is wrong.
    """

    images: dict[str, int]
    classes: int
    compared: str
    anomalies: list[Anomaly] = field(default_factory=list)


def verify(dataset: Dataset, progress: Progress) -> Report:
    """Look at every record and every file.

    Counts are compared with the published figures where the tree has as many classes as the whole data set, else only
    with the tree's own lists, which its reader has done. Every image is decoded to its last row; boxes, visible
    key-points and masks must fit it; no image of the test split may have the content of a training image.

    Args:
        dataset: read already: what its reader refuses does not come here.
        progress: is told about each image.
    """
    records = {split: dataset.split(split) for split in SPLITS}
    counts = {split: len(found) for split, found in records.items()}
    official: Figures | None = getattr(dataset, "official", None)
    anomalies: list[Anomaly] = []
    if official is None:
        compared = "the tree's own lists"
    elif len(dataset.classes) != official.classes:
        compared = f"the tree's own lists ({len(dataset.classes)} of {official.classes} classes: a subset)"
    else:
        compared = "the official figures"
        expected = {"train": official.train, "test": official.test}
        anomalies += [
            Anomaly("count", split, f"{counts[split]} images, officially {expected[split]}")
            for split in SPLITS
            if counts[split] != expected[split]
        ]
    for split, found in records.items():
        there = Counter(record.label for record in found)
        for label, name in enumerate(dataset.classes):
            if not there[label]:
                anomalies.append(Anomaly("class", name, f"has no {split} image"))
    flat = [(split, record) for split in SPLITS for record in records[split]]
    first: dict[str, tuple[str, str]] = {}
    looks = ordered_map(look, [record for _, record in flat])
    for (split, record), (content, wrong) in zip(flat, progress.track(looks, "verify", len(flat)), strict=True):
        anomalies += wrong
        before, twin = first.setdefault(content, (split, record.id))
        if content and before != split:
            anomalies.append(Anomaly("leak", record.id, f"the same file is {twin} of the {before} split"))
    return Report(counts, len(dataset.classes), compared, anomalies)


def look(record: Record) -> tuple[str, list[Anomaly]]:
    """A hash of the file's content (empty where it cannot be read), and what is wrong with the record."""
    try:
        content = hashlib.sha256(record.path.read_bytes()).hexdigest()
        width, height = decode(record.path).size
    except OSError as error:
        return "", [Anomaly("image", record.id, f"cannot be read ({error.strerror or error})")]
    except CellError as error:
        return content, [Anomaly("image", record.id, str(error).removeprefix(f"{record.path}: "))]
    return content, [*_box(record, width, height), *_keypoints(record, width, height), *_mask(record, width, height)]


def _box(record: Record, width: int, height: int) -> Iterator[Anomaly]:
    if record.box is None:
        return
    x, y, w, h = record.box
    if w <= 0 or h <= 0:
        yield Anomaly("box", record.id, f"{w:g} by {h:g} pixels")
    elif x < 0 or y < 0 or x + w > width or y + h > height:
        yield Anomaly("box", record.id, f"({x:g}, {y:g}, {w:g}, {h:g}) leaves the image of {width} by {height}")


def _keypoints(record: Record, width: int, height: int) -> Iterator[Anomaly]:
    for part, (x, y, visible) in enumerate(record.keypoints):
        if visible and not (0 <= x <= width and 0 <= y <= height):
            yield Anomaly("keypoint", record.id, f"part {part + 1} at ({x:g}, {y:g}), image {width} by {height}")


def _mask(record: Record, width: int, height: int) -> Iterator[Anomaly]:
    if record.mask is None:
        return
    try:
        size = decode(Path(record.mask)).size
    except CellError as error:
        yield Anomaly("mask", record.id, str(error).removeprefix(f"{record.mask}: "))
    else:
        if size != (width, height):
            yield Anomaly("mask", record.id, f"{size[0]} by {size[1]} pixels, its image {width} by {height}")
