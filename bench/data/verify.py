"""Verification of a data set on disk."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from bench.contract import CellError, Dataset, Progress, Record
from bench.core.files import ordered_map
from bench.data.base import PublishedCounts
from bench.data.cache import SPLITS
from bench.data.decoding import decode
from bench.data.reader_reports import NOTHING, Anomaly, Faults, LeftOutRecord


@dataclass(frozen=True)
class VerificationReport:
    """Result of a verification: images of each split, classes, the reference of these counts, and all problems."""

    images: dict[str, int]
    classes: int
    compared: str
    anomalies: list[Anomaly] = field(default_factory=list)
    warnings: list[Anomaly] = field(default_factory=list)  # of images that are used unchanged
    refused: bool = False  # by `run`: annotations or files do not fit together
    left_out: LeftOutRecord = field(default_factory=dict)


def verify(dataset: Dataset, progress: Progress, faults: Faults | None = None) -> VerificationReport:
    """Check every record and every file of a data set.

    Counts are compared with the published ones if the folder has as many classes as the whole data set; its lists are
    compared with each other by its reader. Every image is decoded to its last row; boxes, visible key-points and masks
    must fit it; no image of the test split may have the content of a training image.
    """
    collected = [] if faults is None else list(faults.collected)
    records = {split: dataset.split(split) for split in SPLITS}
    counts = {split: len(rows) for split, rows in records.items()}
    official: PublishedCounts | None = getattr(dataset, "official", None)
    anomalies = list(collected)
    warnings: list[Anomaly] = []
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
    for split, rows in records.items():
        present = Counter(record.label for record in rows)
        for label, name in enumerate(dataset.classes):
            if not present[label] and not any(anomaly.kind == "class" for anomaly in collected):
                anomalies.append(Anomaly("class", name, f"has no {split} image"))
    flat = [(split, record) for split in SPLITS for record in records[split]]
    first: dict[str, tuple[str, str]] = {}
    looks = ordered_map(check_record, [record for _, record in flat])
    for (split, record), (content, wrong) in zip(flat, progress.track(looks, "verify", len(flat)), strict=True):
        for anomaly in wrong:
            (warnings if anomaly.kind == "range" else anomalies).append(anomaly)
        before, twin = first.setdefault(content, (split, record.id))
        if content and before != split:
            anomalies.append(Anomaly("leak", record.id, f"the same file is {twin} of the {before} split"))
    left_out = {reason: dict(entry) for reason, entry in getattr(dataset, "left_out", NOTHING).items()}
    return VerificationReport(counts, len(dataset.classes), compared, anomalies, warnings, bool(collected), left_out)


def check_record(record: Record) -> tuple[str, list[Anomaly]]:
    """Return a hash of the file's content (empty if it cannot be read), and the problems of the record."""
    try:
        content = hashlib.sha256(record.path.read_bytes()).hexdigest()
        image = decode(record.path)
    except OSError as error:
        return "", [Anomaly("image", record.id, f"cannot be read ({error.strerror or error})")]
    except CellError as error:
        return content, [Anomaly("image", record.id, str(error).removeprefix(f"{record.path}: "))]
    problems = [*_range(record, image), *_box(record, *image.size), *_keypoints(record, *image.size)]
    return content, [*problems, *_mask(record, *image.size)]


def _range(record: Record, image: Image.Image) -> Iterator[Anomaly]:
    """Yield a warning for 16-bit samples that never use the upper two bits: likely 10, 12 or 14 bits, unscaled."""
    largest = max(high for _, high in image.getextrema())
    if image.info["bits"] == 16 and largest < 64:
        dark = f"its brightest value is {largest} of 255: of 16 bits a sample the upper ones are not used"
        yield Anomaly("range", record.id, f"{dark}; scale it, or state its bits in the file (PNG: sBIT)")


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
