"""ImageNet's classification task (Russakovsky et al. 2015): its validation images are the test split."""

from __future__ import annotations

from pathlib import Path

from bench.contract import Record, RequestError
from bench.data.base import AnnotatedDataset, PublishedCounts
from bench.data.class_folders import classes_in
from bench.data.image_folder import check_classes
from bench.data.matlab import entries, whole_number
from bench.data.reader_reports import Faults, LeftOut, fault

_DEVKIT = Path("ILSVRC2012_devkit_t12") / "data"


class ImageNet(AnnotatedDataset):
    """ImageNet in ``train/WNID/*`` and ``val/WNID/*``, or with a flat ``val`` beside ``ILSVRC2012_devkit_t12``.

    Class indices are those of torchvision's weights: the WordNet ids in alphabetical order.

    Args:
        root: the folder with ``train`` and ``val``.
        cache: as in :class:`bench.data.base.AnnotatedDataset`.
        faults: collects the problems instead of raising the first.

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
        labels = {name: label for label, name in enumerate(self.classes)}
        splits = {
            split: [
                Record(path.relative_to(root).as_posix(), path, labels[name])
                for name, paths in classes.items()
                for path in paths
            ]
            for split, classes in found.items()
        }
        super().__init__(root, cache, splits, files)


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
