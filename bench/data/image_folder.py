"""Image folders of users: one folder for each class, with boxes and key-points from an optional table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from bench.contract import Record, RequestError
from bench.data.annotation_table import AnnotationTable
from bench.data.base import AnnotatedDataset
from bench.data.class_folders import read
from bench.data.reader_reports import Faults, LeftOut

TABLE = "annotations.csv"
Classes = Mapping[str, list[Path]]


class ImageFolder(AnnotatedDataset):
    """Images in ``root/{train,test}/CLASS/*.jpg``, or in ``root/CLASS/*.jpg``, which is divided by the reader.

    :mod:`bench.data.class_folders` decides which folders are splits and classes and which files are images; class
    folders without any image are left out too. ``root/annotations.csv`` may hold a line for each image: see
    :class:`bench.data.annotation_table.AnnotationTable`. Without ``test``, the share ``test_share`` of each class is
    tested on, by a hash of ``seed`` and path: most images stay in their split when others are added or removed.

    Raises:
        RequestError: naming the file or folder and the problem.
    """

    markers = (".",)

    def __init__(
        self,
        root: Path,
        cache: Path | None = None,
        test_share: float = 0.3,
        seed: int = 0,
        faults: Faults | None = None,
    ) -> None:
        if not 0 < test_share < 1:
            raise RequestError(f"test_share is {test_share}; it must be between 0 and 1")
        faults = faults or Faults()
        divided, found, left_out = _splits(root, test_share, seed, faults)
        self.classes, found = check_classes(found, root, left_out, faults, divided)
        self.left_out = left_out.record()
        images = {
            split: [
                (path.relative_to(root).as_posix(), path, kind) for kind, paths in classes.items() for path in paths
            ]
            for split, classes in found.items()
        }
        # In any case of letters, and also if it is a broken link: a table is never silently ignored.
        file = min((path for path in root.iterdir() if path.name.lower() == TABLE), default=None)
        table = None
        if file is not None:
            table = AnnotationTable(file, [name for rows in images.values() for name, _, _ in rows], faults)
            self.parts = table.parts
            self.provides = table.provides | {"image", "label"}
        annotations = {} if table is None else table.rows
        labels = {name: label for label, name in enumerate(self.classes)}
        splits = {
            split: [Record(name, path, labels[kind], *annotations.get(name, ())) for name, path, kind in rows]
            for split, rows in images.items()
        }
        chosen = "" if divided else f"test_share={test_share:g} seed={seed}"
        super().__init__(root, cache, splits, [] if file is None else [file], chosen)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Return whether there are class folders with images; any folder has the marker."""
        try:
            _, found, left_out = _splits(root, 0.5, 0, Faults())
            check_classes(found, root, left_out, Faults())
        except (RequestError, OSError):
            return False
        return True


def check_classes(
    found: Mapping[str, Classes], root: Path, left_out: LeftOut, faults: Faults, divided: bool = True
) -> tuple[list[str], dict[str, dict[str, list[Path]]]]:
    """Return the class names in their order, and the images of each split by class, without classes of no image.

    Class folders without an image in any split go to ``left_out``. In a folder that came undivided, classes that cannot
    be divided are reported already.

    Raises:
        RequestError: naming a class without images in one of the splits.
    """
    empty = {name for classes in found.values() for name, paths in classes.items() if not paths}
    empty -= {name for classes in found.values() for name, paths in classes.items() if paths}
    for name in sorted(empty):
        left_out.add("class folder without images", root / name)
    full = {split: {name: paths for name, paths in classes.items() if paths} for split, classes in found.items()}
    if not any(full.values()):
        raise RequestError(
            f"{root} has no class folders with images: expected DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg, or "
            "DIR/CLASS/*.jpg; pass --data-root DIR"
        )
    for split, other in (("train", "test"), ("test", "train")):
        for name in sorted(full[other].keys() - full[split].keys()) if divided else ():
            faults.report(RequestError(f"{root}: class {name!r} has {other} images and no {split} image"))
    return list({**full["train"], **full["test"]}), full


def _splits(
    root: Path, test_share: float, seed: int, faults: Faults
) -> tuple[bool, dict[str, dict[str, list[Path]]], LeftOut]:
    """Return whether the folder comes divided, the images of each split by class, and the files left out."""
    content = read(root)
    if "test" in content.splits:
        return True, {split: dict(classes) for split, classes in content.splits.items()}, content.left_out
    return False, _divide(content.splits["train"], root, test_share, seed, faults), content.left_out


def _divide(found: Classes, root: Path, share: float, seed: int, faults: Faults) -> dict[str, dict[str, list[Path]]]:
    """Split by class: the images whose hashes come first are test images, at least one."""
    splits: dict[str, dict[str, list[Path]]] = {"train": {}, "test": {}}

    def rank(path: Path) -> bytes:
        text = f"{seed} {path.relative_to(root)}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

    for name, paths in found.items():
        if len(paths) == 1:
            faults.report(RequestError(f"{root / name} has one image; a class needs at least two to be divided"))
        ranked = sorted(paths, key=rank)
        count = min(max(round(share * len(paths)), 1), max(len(paths) - 1, 0))
        splits["test"][name], splits["train"][name] = sorted(ranked[:count]), sorted(ranked[count:])
    return splits
