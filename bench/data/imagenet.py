"""ImageNet's classification task (Russakovsky et al. 2015), or some of its classes; tested on validation images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.contract import Record, RequestError
from bench.core.imagenet_classes import wnids
from bench.data.base import AnnotatedDataset, PublishedCounts
from bench.data.box_xml import with_box
from bench.data.class_folders import classes_in
from bench.data.image_folder import check_classes
from bench.data.matlab import entries, whole_number
from bench.data.reader_reports import Faults, LeftOut, fault

_DEVKIT = Path("ILSVRC2012_devkit_t12") / "data"
_BOXES = Path("Annotations") / "CLS-LOC"


class ImageNet(AnnotatedDataset):
    """ImageNet in ``train/WNID/*`` and ``val/WNID/*``, or with a flat ``val`` beside ``ILSVRC2012_devkit_t12``.

    Any of the 1,000 classes: labels number the WordNet ids at hand in alphabetical order, as the rows of published
    weights number all of them (:mod:`bench.models.imagenet_head` finds the rows of a subset). Boxes are read from
    ``Annotations/CLS-LOC`` in the folder, or beside Kaggle's ``Data/CLS-LOC``; an image of several objects has the box
    around them all. Validation images must all have one then; some training images never had.

    Raises:
        RequestError: naming the file or folder and the problem.
    """

    markers = ("val",)  # image folders of users have train too
    official = PublishedCounts(classes=1000, train=1_281_167, test=50_000)

    def __init__(self, root: Path, cache: Path | None = None, faults: Faults | None = None) -> None:
        faults, left_out, files = faults or Faults(), LeftOut(root), []
        validation = classes_in(root / "val", left_out)
        if not any(validation.values()):
            left_out = LeftOut(root)  # its images are directly in it
            files = [root / _DEVKIT / "meta.mat", root / _DEVKIT / "ILSVRC2012_validation_ground_truth.txt"]
            validation = _by_devkit(root / "val", *files, faults)
        found = {"train": classes_in(root / "train", left_out), "test": validation}
        self.classes, found = check_classes(found, root, left_out, faults)
        self.left_out = left_out.record()
        _check_wnids(self.classes, root, faults)
        labels = {name: label for label, name in enumerate(self.classes)}
        boxes = _folder_of_boxes(root)
        if boxes is not None:
            self.provides = frozenset({"image", "label", "bbox"})
        splits: dict[str, list[Record]] = {split: [] for split in found}
        for split, classes in found.items():
            for name, paths in classes.items():
                for path in paths:
                    record = Record(path.relative_to(root).as_posix(), path, labels[name])
                    if boxes is not None:
                        file = boxes / ("val" if split == "test" else f"train/{name}") / f"{path.stem}.xml"
                        # Official training boxes cover less than half of the images.
                        if split == "test" or file.is_file():
                            record = with_box(record, file, faults)
                            files.append(file)
                    splits[split].append(record)
        super().__init__(root, cache, splits, files)


def _check_wnids(classes: Sequence[str], root: Path, faults: Faults) -> None:
    """Refuse class folders that are none of the 1,000 classes."""
    foreign = [name for name in classes if name not in wnids()]
    if foreign:
        faults.report(
            RequestError(
                f"{root}: {len(foreign)} of {len(classes)} class folders are none of ImageNet's 1,000 WordNet ids, the "
                f"first: {foreign[0]!r}; name them like n01440764, or read them as --datasets folder"
            )
        )


def _folder_of_boxes(root: Path) -> Path | None:
    """Return the folder of the official annotations, if it is there."""
    places = [root / _BOXES]
    if root.resolve().parts[-2:] == ("Data", "CLS-LOC"):
        places.append(root.resolve().parents[1] / _BOXES)  # the tree that Kaggle distributes
    return next((place for place in places if place.is_dir()), None)


def _by_devkit(folder: Path, meta: Path, truth: Path, faults: Faults) -> dict[str, list[Path]]:
    """Return the validation images of each class: line n of the ground truth belongs to the n-th name."""
    if not truth.is_file():
        raise RequestError(f"{folder} has no class folders, and {truth} is missing; unpack the devkit beside it")
    wnids = {}
    for place, (number, wnid) in entries(meta, "synsets", ("ILSVRC2012_ID", "WNID")):
        wnids[whole_number(meta, place, number, "ILSVRC2012_ID", 10**5)] = str(wnid)
    images = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in (".jpeg", ".jpg") and path.name[0] != "."
    )
    lines = truth.read_text().split()
    if len(lines) != len(images):
        raise fault(truth, None, f"{len(lines)} lines for the {len(images)} images in {folder}")
    found: dict[str, list[Path]] = {}
    for line, (text, path) in enumerate(zip(lines, images, strict=True), 1):
        with faults:
            if not text.isdecimal() or int(text) not in wnids:
                raise fault(truth, line, f"class {text!r} is not in {meta.name}")
            found.setdefault(wnids[int(text)], []).append(path)
    return dict(sorted(found.items()))
