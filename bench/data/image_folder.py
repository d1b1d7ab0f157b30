"""Anyone's images, one folder for each class, with boxes and key-points from a table where there is one."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.contract import Record, RequestError
from bench.data.base import Box, Names, Tree, corners, fault

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})
TABLE = "annotations.csv"
_BOX = ("x", "y", "width", "height")


class Folder(Tree):
    """``root/train/CLASS/*.jpg`` and ``root/test/CLASS/*.jpg``, or ``root/CLASS/*.jpg``, divided here.

    ``root/annotations.csv`` may hold a line for each image: ``image`` (its path in ``root``), a box as ``x, y, width,
    height`` in pixels of the stored image, and for each part ``PART.x, PART.y`` (empty where it is not visible).

    Args:
        root: the folder.
        cache: as in :class:`bench.data.base.Tree`.
        test_share: of each class, where the folder has no ``train`` and ``test``.
        seed: of that division. Most images stay in their split when others come or go.

    Raises:
        RequestError: one line that says what is missing or wrong, and where.
    """

    markers = (".",)

    def __init__(self, root: Path, cache: Path | None = None, test_share: float = 0.3, seed: int = 0) -> None:
        if not 0 < test_share < 1:
            raise RequestError(f"test_share is {test_share}; it must lie between 0 and 1")
        divided, found = _splits(root, test_share, seed)
        self.classes = check_classes(found, root)
        table = _Table(root / TABLE) if (root / TABLE).exists() else None
        if table is not None:
            self.parts = table.parts
            kinds = (
                {"image", "label"} | ({"bbox"} if table.boxed else set()) | ({"keypoints"} if table.parts else set())
            )
            self.provides = frozenset(kinds)
        labels = {name: label for label, name in enumerate(self.classes)}
        splits = {
            split: [_record(path, root, labels[name], table) for name, paths in classes.items() for path in paths]
            for split, classes in found.items()
        }
        chosen = "" if divided else f"test_share={test_share:g} seed={seed}"
        super().__init__(root, cache, splits, [] if table is None else [table.file], chosen)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Whether there are class folders with images, as the reader wants them; any folder has the marker."""
        try:
            check_classes(_splits(root, 0.5, 0)[1], root)
        except (RequestError, OSError):
            return False
        return True


def class_folders(root: Path) -> dict[str, list[Path]]:
    """The images of each folder inside ``root``, both sorted by name; hidden folders and those without images left out.

    Raises:
        RequestError: where a folder cannot be read, or a link leads nowhere.
    """
    try:
        entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
        broken = [path for path in entries if not path.exists()]
        if broken:
            raise RequestError(f"{broken[0]}: cannot be read (a link that leads nowhere)")
        folders = [path for path in entries if path.is_dir()]
        found = {
            folder.name: sorted(
                path for path in folder.iterdir() if path.suffix.lower() in IMAGES and not path.name.startswith(".")
            )
            for folder in folders
        }
    except OSError as error:
        raise RequestError(f"{error.filename or root}: cannot be read ({error.strerror or error})") from error
    return {name: paths for name, paths in found.items() if paths}


def check_classes(found: Mapping[str, Mapping[str, list[Path]]], root: Path) -> list[str]:
    """The class names, if every class has images in both splits.

    Raises:
        RequestError: naming the class that has not.
    """
    if not any(found.values()):
        raise RequestError(
            f"{root} has no class folders with images: expected DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg, or "
            "DIR/CLASS/*.jpg; pass --data-root DIR"
        )
    for split, other in (("train", "test"), ("test", "train")):
        lonely = sorted(found[other].keys() - found[split].keys())
        if lonely:
            raise RequestError(f"{root}: class {lonely[0]!r} has {other} images and no {split} image")
    return sorted(found["train"])


def _splits(root: Path, test_share: float, seed: int) -> tuple[bool, dict[str, dict[str, list[Path]]]]:
    """Whether the folder comes divided, and the images of each split by class."""
    if (root / "train").is_dir() and (root / "test").is_dir():
        return True, {split: class_folders(root / split) for split in ("train", "test")}
    return False, _divide(class_folders(root), root, test_share, seed)


def _divide(found: Mapping[str, list[Path]], root: Path, share: float, seed: int) -> dict[str, dict[str, list[Path]]]:
    """A stratified split: of each class the images whose hashes come first are test images, at least one."""
    splits: dict[str, dict[str, list[Path]]] = {"train": {}, "test": {}}
    for name, paths in found.items():
        if len(paths) < 2:
            raise RequestError(f"{root / name} has one image; a class needs at least two to be divided")
        ranked = sorted(
            paths,
            key=lambda path: hashlib.sha256(
                f"{seed} {path.relative_to(root)}".encode(errors="surrogateescape")
            ).digest(),
        )
        count = min(max(round(share * len(paths)), 1), len(paths) - 1)
        splits["test"][name], splits["train"][name] = sorted(ranked[:count]), sorted(ranked[count:])
    return splits


def _record(path: Path, root: Path, label: int, table: _Table | None) -> Record:
    name = path.relative_to(root).as_posix()
    if table is None:
        return Record(name, path, label)
    if name not in table.rows:
        raise fault(table.file, None, f"has no line for {name}")
    return Record(name, path, label, *table.rows[name])


@dataclass(frozen=True, init=False)
class _Table:
    """Boxes and key-points by image."""

    file: Path
    boxed: bool
    parts: list[str]
    rows: dict[str, tuple[Box | None, tuple[tuple[float, float, bool], ...]]]

    def __init__(self, file: Path) -> None:
        try:
            with file.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.DictReader(stream, strict=True)
                header = list(reader.fieldnames or ())
                lines = [(reader.line_num, row) for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise fault(file, None, f"cannot be read as a table ({error})") from error
        parts = [name.removesuffix(".x") for name in header if name.endswith(".x")]
        boxed = "x" in header
        expected = {"image", *(_BOX if boxed else ()), *(f"{part}.{axis}" for part in parts for axis in "xy")}
        wrong = sorted(expected.symmetric_difference(header)) or [name for name in header if header.count(name) > 1]
        if wrong:
            raise fault(
                file,
                1,
                f"column {wrong[0]!r} is missing, unknown or twice there (image, {', '.join(_BOX)}, PART.x, PART.y)",
            )
        names, rows = Names(file), {}
        for line, row in lines:
            if None in row or None in row.values():
                raise fault(file, line, f"{len(header)} fields belong here")
            name = Path(names.check(row["image"], line)).as_posix()
            box = None
            if boxed:
                x, y, width, height = (_number(file, line, row[field], field) for field in _BOX)
                box = corners(file, str(line), x, y, x + width, y + height)
            points = tuple(_point(file, line, row, part) for part in parts)
            rows[name] = (box, points)
        for field, value in (("file", file), ("boxed", boxed), ("parts", parts), ("rows", rows)):
            object.__setattr__(self, field, value)


def _point(file: Path, line: int, row: Mapping[str, str], part: str) -> tuple[float, float, bool]:
    if not row[f"{part}.x"].strip() and not row[f"{part}.y"].strip():
        return 0.0, 0.0, False
    x, y = (_number(file, line, row[f"{part}.{axis}"], f"{part}.{axis}") for axis in "xy")
    return x, y, True


def _number(file: Path, line: int, text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise fault(file, line, f"{what} {text!r} is not a finite number")
    return value
