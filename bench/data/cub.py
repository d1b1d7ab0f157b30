"""CUB-200-2011 in its official folders (Wah et al. 2011), and any data set written in the same files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.contract import Record
from bench.data.base import AnnotatedDataset, CheckedNames, PublishedCounts, missing_keys
from bench.data.reader_reports import Fault, Faults, fault, gone

T = TypeVar("T")
Keypoint = tuple[float, float, bool]

_ANNOTATIONS = (
    "images.txt",
    "classes.txt",
    "image_class_labels.txt",
    "train_test_split.txt",
    "bounding_boxes.txt",
    "parts/parts.txt",
    "parts/part_locs.txt",
)


class Cub(AnnotatedDataset):
    """Birds with boxes, part key-points and, if they were downloaded too, masks. Every annotation is checked.

    Args:
        root: the folder with ``images.txt``. Masks (a separate download) are in ``segmentations`` inside it or beside
            it; the folder counts if it has the mask of any image, and must then have those of all.
        cache: as in :class:`bench.data.base.AnnotatedDataset`.
        faults: collects the problems instead of raising the first; then unknown labels are -1.

    Attributes:
        provides: ``image, label, bbox, keypoints`` and, with masks, ``mask``.
        classes: class names; the class index is the official id - 1.
        parts: names of the parts, in the order of :attr:`bench.contract.Record.keypoints`.

    Raises:
        RequestError: naming the file, the line and the problem.
    """

    markers = ("images.txt",)
    official = PublishedCounts(classes=200, train=5994, test=5794)

    def __init__(self, root: Path, cache: Path | None = None, faults: Faults | None = None) -> None:
        faults = faults or Faults()
        files = {name: _File(root / name, faults) for name in _ANNOTATIONS}
        self.classes: Sequence[str] = files["classes.txt"].names()
        self.parts: Sequence[str] = files["parts/parts.txt"].names()
        images = files["images.txt"].images()
        lines = {image: line for image, (line, _) in images.items()}

        labels = files["image_class_labels.txt"].per_image(lines, 2, _label(len(self.classes)))
        train = files["train_test_split.txt"].per_image(lines, 2, _flag)
        boxes = files["bounding_boxes.txt"].per_image(lines, 5, _box)
        points = _keypoints(files["parts/part_locs.txt"], lines, len(self.parts))

        paths = {image: root / "images" / name for image, (_, name) in images.items()}
        missing = missing_keys(paths, faults)
        faults.missing(
            missing, lambda image, more: files["images.txt"].fault(lines[image], f"{paths[image]} is not on disk{more}")
        )
        masks = _masks(root, files["images.txt"], images)

        self.provides = frozenset({"image", "label", "bbox", "keypoints"} | ({"mask"} if masks else set()))
        splits: dict[str, list[Record]] = {"train": [], "test": []}
        lost = set(missing)
        for image, path in paths.items():
            if image not in lost:
                label, box = labels.get(image, -1), boxes.get(image)
                record = Record(images[image][1], path, label, box, points.get(image, ()), masks.get(image))
                splits["train" if train.get(image, True) else "test"].append(record)
        super().__init__(root, cache, splits, [root / name for name in _ANNOTATIONS])


def _masks(root: Path, file: _File, images: Mapping[int, tuple[int, str]]) -> dict[int, Path]:
    """Return the mask of each image, from the first folder that has any; it must then have all."""
    beside = [root.parent, *([root.parent.parent] if root.parent.name == root.name else [])]
    for folder in (place / "segmentations" for place in (root, *beside)):
        if not folder.is_dir():
            continue
        masks = {image: (folder / name).with_suffix(".png") for image, (_, name) in images.items()}
        missing = missing_keys(masks, file.faults)
        if len(missing) < len(masks):
            file.faults.missing(
                missing,
                lambda image, more, masks=masks: file.fault(  # type: ignore[misc]
                    images[image][0], f"its mask {masks[image]} is not on disk{more}"
                ),
            )
            return {image: masks[image] for image in masks.keys() - set(missing)}
    return {}


@dataclass(frozen=True)
class _File:
    """Annotation file that is read line by line; problems are reported with the line number."""

    path: Path
    faults: Faults

    def fault(self, line: int | None, what: str) -> Fault:
        return fault(self.path, line, what)

    def rows(self, fields: int, *, free: bool = False) -> Iterator[tuple[int, list[str]]]:
        """Yield line number and fields of each line; with ``free`` the last field may hold spaces."""
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            self.faults.report(gone(self.path, "the folder passed must be a whole CUB_200_2011 tree"))
            return
        except (OSError, UnicodeDecodeError) as error:
            self.faults.report(self.fault(None, f"cannot be read as text ({error})"))
            return
        for number, line in enumerate(text.rstrip().split("\n"), 1):
            row = line.strip().split(maxsplit=fields - 1) if free else line.split()
            if len(row) != fields:
                self.faults.report(self.fault(number, f"{len(row)} fields instead of {fields}"))
                continue
            yield number, row

    def integer(self, line: int, text: str, what: str) -> int:
        try:
            return int(text)
        except ValueError:
            raise self.fault(line, f"{what} {text!r} is not a whole number") from None

    def number(self, line: int, text: str, what: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.fault(line, f"{what} {text!r} is not a finite number")
        return value

    def names(self) -> list[str]:
        """Return names with ids 1, 2, 3, ..."""
        names: list[str] = []
        for line, (number, name) in self.rows(2, free=True):
            with self.faults:
                if self.integer(line, number, "id") != len(names) + 1:
                    raise self.fault(line, f"id {number} instead of {len(names) + 1} (ids are 1, 2, 3, ... in order)")
            names.append(name)
        return names

    def images(self) -> dict[int, tuple[int, str]]:
        """Return line and file name of each image id."""
        images: dict[int, tuple[int, str]] = {}
        names = CheckedNames(self.path)
        for line, (text, name) in self.rows(2, free=True):
            with self.faults:
                image = self.integer(line, text, "image id")
                if image in images:
                    raise self.fault(line, f"image id {image} was already used on line {images[image][0]}")
                images[image] = line, names.check(name, line)
        return images

    def per_image(
        self, lines: Mapping[int, int], fields: int, parse: Callable[[_File, int, list[str]], T]
    ) -> dict[int, T]:
        """Return the parsed rest of the one line that each image of ``lines`` (id -> line of images.txt) must have."""
        parsed: dict[int, T] = {}
        seen: set[int] = set()
        for line, row in self.rows(fields):
            with self.faults:
                image = self.integer(line, row[0], "image id")
                seen.add(image)
                if image not in lines:
                    raise self.fault(line, f"image {image} is not in images.txt")
                if image in parsed:
                    raise self.fault(line, f"image {image} has a line already")
                parsed[image] = parse(self, line, row[1:])
        for image, line in lines.items():
            if image not in seen and seen:  # a file without any line is reported once, not once per image
                self.faults.report(self.fault(None, f"no line for image {image} (images.txt:{line})"))
        return parsed


def _label(classes: int) -> Callable[[_File, int, list[str]], int]:
    def parse(file: _File, line: int, row: list[str]) -> int:
        label = file.integer(line, row[0], "class id")
        if not 1 <= label <= classes:
            raise file.fault(line, f"class id {label} is not in classes.txt (1 to {classes})")
        return label - 1

    return parse


def _flag(file: _File, line: int, row: list[str]) -> bool:
    if row[0] not in ("0", "1"):
        raise file.fault(line, f"flag {row[0]!r} instead of 0 (test) or 1 (train)")
    return row[0] == "1"


def _box(file: _File, line: int, row: list[str]) -> tuple[float, float, float, float]:
    x, y, width, height = (file.number(line, text, "box") for text in row)
    if width < 0 or height < 0:
        raise file.fault(line, f"the box has a negative side ({width:g} by {height:g})")
    return x, y, width, height


def _keypoints(file: _File, lines: Mapping[int, int], parts: int) -> dict[int, tuple[Keypoint, ...]]:
    """Return the key-points of each image in the order of parts.txt."""
    # The file is long (15 lines per image), so this loop is written for speed.
    points: dict[int, list[Keypoint | None]] = {image: [None] * parts for image in lines}
    any_line, reported, spoilt = False, len(file.faults.collected), set[str]()
    for line, (image_text, part_text, x_text, y_text, flag) in file.rows(5):
        any_line = True
        with file.faults:
            try:
                image, part, x, y = int(image_text), int(part_text), float(x_text), float(y_text)
            except ValueError:
                image, part, x, y = 0, 0, math.nan, math.nan
            if not (math.isfinite(x) and math.isfinite(y)):
                for text, what in ((image_text, "image id"), (part_text, "part id")):
                    file.integer(line, text, what)
                for text, what in ((x_text, "x"), (y_text, "y")):
                    file.number(line, text, what)
            row = points.get(image)
            if row is None:
                raise file.fault(line, f"image {image} is not in images.txt")
            if not 1 <= part <= parts:
                raise file.fault(line, f"part id {part} is not in parts.txt (1 to {parts})")
            if row[part - 1] is not None:
                raise file.fault(line, f"image {image} has a line for part {part} already")
            if flag not in ("0", "1"):
                raise file.fault(line, f"visible flag {flag!r} instead of 0 or 1")
            row[part - 1] = (x, y, flag == "1")
        if len(file.faults.collected) > reported:
            reported = len(file.faults.collected)
            spoilt.add(image_text)
    whole: dict[int, tuple[Keypoint, ...]] = {}
    for image, row in points.items():
        # An absent row could mean "not visible", but in the official files it never does: it is lost data.
        whole[image] = tuple(point or (0.0, 0.0, False) for point in row)
        for part, point in enumerate(row, 1):
            if point is None and any_line and str(image) not in spoilt:
                line = lines[image]
                file.faults.report(file.fault(None, f"no line for image {image} (images.txt:{line}), part {part}"))
    return whole
