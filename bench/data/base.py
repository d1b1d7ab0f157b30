"""Base of all data sets on disk: records in splits, one hash of all files, and helpers to check annotations."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypeVar

from bench.contract import Record, RequestError
from bench.core.content_digest import content_digest
from bench.data.reader_reports import NOTHING, OFFICIAL, Faults, LeftOutRecord, fault

K = TypeVar("K")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PublishedCounts:
    """Published numbers of classes and images of the whole data set."""

    classes: int
    train: int
    test: int


class AnnotatedDataset:
    """Data set in a folder; subclasses read its annotations, and collect problems in ``faults`` where they are given.

    Args:
        root: the folder of the data set.
        cache: folder for file hashes, so that :attr:`digest` reads an unchanged data set only once.
        splits: the records of each split.
        files: other files that decide the content: annotation files.
        chosen: choices of the reader that are written in no file, for example its division of the images.

    Attributes:
        markers: files or folders, any one of which identifies such a data set.
        official: published counts of the whole data set, if there are any.
        provides: kinds of annotations that its records have.
        classes: class names in the order of the labels.
        parts: names of the parts in the order of :attr:`bench.contract.Record.keypoints`.
        left_out: files in the folder that were not read, by reason.
    """

    markers: ClassVar[tuple[str, ...]] = ()
    official: ClassVar[PublishedCounts | None] = None
    provides: frozenset[str] = frozenset({"image", "label"})
    classes: Sequence[str]
    parts: Sequence[str] = ()
    left_out: LeftOutRecord = NOTHING

    def __init__(
        self,
        root: Path,
        cache: Path | None,
        splits: Mapping[str, list[Record]],
        files: Sequence[Path],
        chosen: str = "",
    ) -> None:
        self.root, self.cache = root, cache
        self._splits, self._files, self._chosen = dict(splits), list(files), chosen

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Return whether a folder contains one of the markers."""
        return any((root / marker).exists() for marker in cls.markers)

    def split(self, name: str) -> Sequence[Record]:
        """Return the records of ``train`` or ``test`` in the data set's official order."""
        if name not in self._splits:
            raise RequestError(f"no split {name!r} in {self.root}; there are {' and '.join(self._splits)}")
        return self._splits[name]

    @cached_property
    def digest(self) -> str:
        """Return the digest of all annotations, images and masks (:mod:`bench.core.content_digest`)."""
        files = list(self._files)
        for records in self._splits.values():
            for record in records:
                files += [record.path] if record.mask is None else [record.path, record.mask]
        key = hashlib.sha256(os.fsencode(self.root.resolve())).hexdigest()[:16]
        content = content_digest(self.root, files, None if self.cache is None else self.cache / f"{key}.json")
        return hashlib.sha256(f"{content} {self._chosen}".encode()).hexdigest()[:16] if self._chosen else content


class CheckedNames:
    """Checked image names of an annotation file: relative, inside the data set's folder, and each one once."""

    def __init__(self, file: Path, cure: str = OFFICIAL) -> None:
        self.file, self.cure = file, cure
        self.seen: dict[Path, int | str] = {}

    def check(self, name: str, place: int | str) -> str:
        """Return the name, if it may be used.

        Raises:
            RequestError: naming the line of an unsafe or repeated name.
        """
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise fault(self.file, place, f"{name!r} leaves the images folder", self.cure)
        if path in self.seen:
            before = self.seen[path]
            earlier = f"{'line ' * isinstance(before, int)}{before}"
            raise fault(self.file, place, f"{name!r} was already named on {earlier}", self.cure)
        self.seen[path] = place
        return name


def box_of_corners(file: Path, place: str, x1: float, y1: float, x2: float, y2: float, cure: str = OFFICIAL) -> Box:
    """Return a box given by its left, top, right and bottom edges as ``(x, y, width, height)``.

    Raises:
        RequestError: if it has no area.
    """
    if not all(math.isfinite(value) for value in (x1, y1, x2, y2)) or x2 <= x1 or y2 <= y1:
        raise fault(file, place, f"the box from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}) holds no pixel", cure)
    return x1, y1, x2 - x1, y2 - y1


def nested(root: Path, name: str) -> Path:
    """Return ``root/name``, or the folder of the same name inside it, as archives unpacked into a folder leave it."""
    return root / name / name if (root / name / name).is_dir() else root / name


def missing_keys(paths: Mapping[K, Path], faults: Faults) -> list[K]:
    """Return the keys whose file is not on disk, with one listing per folder instead of one look-up per file.

    Raises:
        RequestError: naming a folder that cannot be listed.
    """
    listed: dict[Path, set[str] | None] = {}
    missing = []
    for key, path in paths.items():
        if path.parent not in listed:
            try:
                with os.scandir(path.parent) as entries:
                    listed[path.parent] = {entry.name for entry in entries if entry.is_file()}
            except (FileNotFoundError, NotADirectoryError):
                listed[path.parent] = set()
            except OSError as error:
                problem = f"cannot be read ({error.strerror or error})"
                faults.report(fault(path.parent, None, problem, "mend its permissions or restore it"), "missing")
                listed[path.parent] = None
        names = listed[path.parent]
        if names is not None and path.name not in names:
            missing.append(key)
    return missing
