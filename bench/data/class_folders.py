"""Reader of image folders: the images of each class, and the files that are left out with the reason.

``DIR/CLASS/**/image`` or, divided, ``DIR/SPLIT/CLASS/**/image``; ``bench/data/README.md`` has the rules.
"""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.contract import RequestError
from bench.core.files import ordered_map
from bench.data.decoding import image_format
from bench.data.reader_reports import LeftOut

# Names of split folders in lower case -> the split.
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}

# Files with these endings are meant as images: one that holds something else is an error when it is decoded.
IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})

# Files and folders of operating systems and network disks, in lower case.
_SYSTEM = frozenset(
    {"@eadir", "@recycle", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__macosx"}
    | {"__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)

_LIKE_A_SPLIT = re.compile(
    r"(^|[^a-z])(train|training|test|testing|val|valid|validation|dev|eval|evaluation|holdout|fold|split)([^a-z]|$)"
)
# Up to so many files are read one after the other; threads take longer to start.
_FEW = 64


@dataclass(frozen=True)
class ClassFolders:
    """Images of a folder by split and class.

    Attributes:
        root: the folder that was read.
        splits: ``train`` and, if the folder comes divided, ``test``: the images of each class, sorted by path.
            Classes are named in NFC and in the order of their folders' names by code points; one without images has an
            empty list.
        folders: the folder of each split; in an undivided folder ``train`` is the folder itself.
        left_out: files that were not read, by reason.
    """

    root: Path
    splits: Mapping[str, Mapping[str, list[Path]]]
    folders: Mapping[str, Path]
    left_out: LeftOut


def read(root: Path) -> ClassFolders:
    """Read a folder of class folders, divided into splits or not.

    Raises:
        RequestError: if a folder cannot be read, a class is a broken link, one folder belongs to two classes, or
            classes and splits cannot be distinguished.
    """
    try:
        top, left_out = _Folder(root, _above(root)), LeftOut(root)
        chosen, beside = _choose(top)
        for folder, reason in beside:
            left_out.add(reason, folder.path, _files_in(folder.path))
        if chosen["train"] is not top:
            left_out.take(top.left_out)
            left_out.extend("outside class folders", top.images)
        owners: dict[tuple[int, int], Path] = {}
        splits = {split: _classes(folder, left_out, owners) for split, folder in chosen.items()}
    except OSError as error:
        raise RequestError(f"{error.filename or root}: cannot be read ({error.strerror or error})") from error
    return ClassFolders(root, splits, {split: folder.path for split, folder in chosen.items()}, left_out)


def classes_in(folder: Path, left_out: LeftOut) -> dict[str, list[Path]]:
    """Return the images of each folder inside ``folder`` as in :attr:`ClassFolders.splits`, with any folder a class.

    Raises:
        RequestError: as :func:`read`.
    """
    try:
        return _classes(_Folder(folder, _above(folder)), left_out, {})
    except OSError as error:
        raise RequestError(f"{error.filename or folder}: cannot be read ({error.strerror or error})") from error


def nfc(name: str) -> str:
    """Return a name in the one Unicode form (NFC) in which names are compared."""
    return unicodedata.normalize("NFC", name)


class _Folder:
    """Folder that is listed at its first use; ``above`` holds the identities of its parent folders."""

    def __init__(self, path: Path, above: frozenset[tuple[int, int]]) -> None:
        self.path, self.name, self.above = path, path.name, above
        self.dead: list[Path] = []
        self.others: list[Path] = []
        self.hidden = LeftOut(path)

    @cached_property
    def identity(self) -> tuple[int, int]:
        """Return device and inode: the same for a folder and for a link to it."""
        status = self.path.stat()
        return status.st_dev, status.st_ino

    @cached_property
    def _listed(self) -> tuple[list[Path], list[_Folder]]:
        """Return images and folders, both sorted by name, and put the other entries into the attributes."""
        files: list[Path] = []
        folders: list[_Folder] = []
        inside = self.above | {self.identity}
        with os.scandir(self.path) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        for entry in entries:
            path, system = self.path / entry.name, entry.name.lower() in _SYSTEM
            if system or entry.name.startswith("."):
                self.hidden.add("of the system" if system else "hidden", path, _files_in(path))
            elif _dead(entry):
                self.dead.append(path)
            elif entry.is_file():
                files.append(path)
            elif not entry.is_dir():
                self.others.append(path)
            elif (folder := _Folder(path, inside)).identity in inside:
                self.hidden.add("link to a folder above it", path)
            else:
                folders.append(folder)
        unclear = [path for path in files if path.suffix.lower() not in IMAGES]
        looks = map(image_format, unclear) if len(unclear) <= _FEW else ordered_map(image_format, unclear)
        no_images = {path for path, kind in zip(unclear, looks, strict=True) if kind is None}
        self.others += sorted(no_images)
        return [path for path in files if path not in no_images], folders

    @property
    def images(self) -> list[Path]:
        """Return the images directly in the folder."""
        return self._listed[0]

    @property
    def folders(self) -> list[_Folder]:
        """Return the folders directly in the folder."""
        return self._listed[1]

    @property
    def left_out(self) -> LeftOut:
        """Return the entries directly in the folder that are left out, other than files that are no images."""
        left_out, _ = LeftOut(self.path), self._listed
        left_out.take(self.hidden)
        left_out.extend("link that leads nowhere", self.dead)
        return left_out

    @cached_property
    def holds(self) -> bool:
        """Return whether there is an image in the folder or below."""
        return any(folder.images for folder in self.walk())

    def walk(self, twice: list[Path] | None = None) -> Iterator[_Folder]:
        """Yield the folder and all folders below, each once; links that lead to one of them go to ``twice``."""
        waiting, links, seen = [self], list[_Folder](), set[tuple[int, int]]()
        while waiting or links:
            # Links come last, so that a folder is read at its real path and not at a link to it.
            folder = waiting.pop() if waiting else links.pop()
            if folder.identity not in seen:
                seen.add(folder.identity)
                yield folder
                for child in reversed(folder.folders):
                    (links if child.path.is_symlink() else waiting).append(child)
            elif twice is not None:
                twice.append(folder.path)

    def read(self, left_out: LeftOut) -> tuple[list[Path], dict[tuple[int, int], Path]]:
        """Return all images in the folder and below, sorted, and the identity of each of these folders."""
        images: list[Path] = []
        twice: list[Path] = []
        folders: dict[tuple[int, int], Path] = {}
        for folder in self.walk(twice):
            folders[folder.identity] = folder.path
            images += folder.images
            left_out.take(folder.left_out)
            left_out.extend("not an image", folder.others)
            if folder is not self and not (folder.images or folder.folders or folder.others or folder.left_out):
                left_out.add("empty folder", folder.path)
        left_out.extend("link to a folder that is read already", twice)
        return sorted(images), folders


def _classes(folder: _Folder, left_out: LeftOut, owners: dict[tuple[int, int], Path]) -> dict[str, list[Path]]:
    """Return the images of each class folder in a folder, and add the folders to ``owners``: each has one class."""
    children = folder.folders
    if folder.dead:
        raise RequestError(f"{folder.dead[0]}: cannot be read (a link that leads nowhere); mend or delete it")
    left_out.take(folder.left_out)
    left_out.extend("outside class folders", folder.images)
    classes: dict[str, list[Path]] = {}
    for child in children:
        name = nfc(child.name)
        if name in classes:
            raise RequestError(
                f"{folder.path} holds two folders named {name!r}, one in each Unicode form (NFC and NFD): put the "
                "images of one into the other"
            )
        classes[name], inside = child.read(left_out)
        for identity, path in inside.items():
            if identity in owners:
                raise RequestError(
                    f"{owners[identity]} and {path} are the same folder (one is a link) in two classes or splits: "
                    "delete one of them"
                )
            owners[identity] = path
    return classes


def _choose(top: _Folder) -> tuple[dict[str, _Folder], list[tuple[_Folder, str]]]:
    """Return the folders with the classes of ``train`` and, if there is one, ``test``, and the others with a reason."""
    root = top.path
    named: dict[str, list[_Folder]] = {"train": [], "test": [], "val": []}
    # A class may be called train too: a split holds class folders, and at least one split holds images.
    for folder in top.folders:
        if folder.name.lower() in SPLITS and folder.folders:
            named[SPLITS[folder.name.lower()]].append(folder)
    if not any(child.holds for split in named.values() for folder in split for child in folder.folders):
        _check_level(top)
        return {"train": top}, []
    lost = [path for path in top.dead if path.name.lower() in SPLITS]
    if lost:
        raise RequestError(f"{lost[0]}: cannot be read (a link that leads nowhere); mend or delete it")
    test = named["test"] or named["val"]
    splits = [*named["train"], *named["test"], *named["val"]]
    read = {folder.identity for folder in splits}  # a split may be a link to another folder here
    beside = [folder for folder in top.folders if folder.identity not in read and folder.holds]
    classes = [folder for folder in beside if folder.name.lower() not in SPLITS]
    if not named["train"] or (classes and not test):
        what = "no folder train/ with class folders" if not named["train"] else f"images in {classes[0].name}/ too"
        raise RequestError(
            f"{root} holds {splits[0].name}/ with class folders, and {what}: a split or a class? Pass {splits[0].path} "
            "to read that alone, or give the folders the names DIR/train/CLASS and DIR/test/CLASS"
        )
    for twins in (named["train"], test):
        if len(twins) > 1:
            raise RequestError(
                f"{root} holds {twins[0].name}/ and {twins[1].name}/, which name the same split: put them together, or "
                "rename one of them"
            )
    chosen = {"train": named["train"][0]} | ({"test": test[0]} if test else {})
    reasons = [(folder, "validation beside train and test") for folder in named["val"] if folder not in test]
    for folder in beside:
        apart = folder in classes
        reasons.append((folder, "beside the splits" if apart else "split without class folders"))
    bare = [folder for folder in top.folders if folder.name.lower() in SPLITS and not folder.holds]
    reasons += [(folder, "split without images") for folder in bare if folder not in chosen.values()]
    for folder in chosen.values():
        _check_level(folder)
    return chosen, reasons


def _check_level(folder: _Folder) -> None:
    """Refuse a folder whose folders seem to be no classes: these are one level deeper, or there are only splits."""
    full = [child for child in folder.folders if child.holds]
    if not full:
        return
    nested = not any(child.images for child in full)
    splits = [child for child in full if _LIKE_A_SPLIT.search(child.name.lower())]
    inner = [
        (child, inside)
        for child in full
        if not child.images
        for inside in [{SPLITS.get(part.name.lower()) for part in child.folders if part.holds} - {None}]
        if "train" in inside and len(inside) > 1
    ]
    if inner:
        what = f"{inner[0][0].name}/ is divided into splits itself"
    elif splits and (nested or len(splits) == len(full)):
        what = f"{splits[0].name}/ seems to be a split, not a class"
    elif nested and len(full) == 1:
        what = f"all images are in folders inside {full[0].name}/"
    elif nested and (deep := next((child for child in full if _deep(child)), None)):
        what = f"no image is directly in them, and those of {deep.name}/ are several folders deep"
    else:
        return
    raise RequestError(
        f"{folder.path} has no class folders with images, or not clearly: {what}; expected DIR/train/CLASS/*.jpg and "
        "DIR/test/CLASS/*.jpg, or DIR/CLASS/*.jpg: pass the folder that holds the class folders, or rename the splits"
    )


def _deep(folder: _Folder) -> bool:
    """Return whether images are more than one folder below a class folder."""
    return any(inner.holds for child in folder.folders for inner in child.folders)


def _above(root: Path) -> frozenset[tuple[int, int]]:
    """Return the identities of the parents of a folder."""
    return frozenset((status.st_dev, status.st_ino) for status in map(os.stat, root.resolve().parents))


def _dead(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a link that leads nowhere, or in a circle."""
    if not entry.is_symlink():
        return False
    try:
        Path(entry.path).stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return True
        raise
    return False


def _files_in(path: Path) -> int:
    """Count the files in a folder and below, links not followed; 1 for a file."""
    count, waiting = 0, [path]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as listing:
                for entry in listing:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(Path(entry.path))
                    else:
                        count += 1
        except OSError:  # a file, or a folder that may not be looked into: it is left out as one
            continue
    return max(count, 1)


def numbers_of(classes: Iterable[str]) -> dict[str, int]:
    """Return the number of each class in a list, by its name in NFC.

    Raises:
        RequestError: if the list names a class twice.
    """
    numbers: dict[str, int] = {}
    for number, name in enumerate(classes):
        if numbers.setdefault(nfc(name), number) != number:
            raise RequestError(f"the list of classes names {name!r} twice")
    return numbers
