"""Stanford Cars (Krause et al. 2013) in the tree that torchvision's StanfordCars reads."""

from __future__ import annotations

from pathlib import Path

from bench.contract import Record
from bench.data.base import AnnotatedDataset, CheckedNames, PublishedCounts, box_of_corners, missing_keys, nested
from bench.data.matlab import column, entries, whole_number
from bench.data.reader_reports import Faults, fault, gone

_FIELDS = ("fname", "class", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


class Cars(AnnotatedDataset):
    """Car models with boxes in ``devkit/*.mat``, ``cars_train``, ``cars_test``, ``cars_test_annos_withlabels.mat``.

    The copy on Kaggle, which nests each folder once more (``car_devkit/devkit``, ``cars_train/cars_train``,
    ``cars_test/cars_test``), is read too.

    Raises:
        RequestError: naming the file, the entry and the problem.
    """

    markers = ("devkit/cars_meta.mat", "car_devkit/devkit/cars_meta.mat", "devkit/devkit/cars_meta.mat")
    official = PublishedCounts(classes=196, train=8144, test=8041)
    provides = frozenset({"image", "label", "bbox"})

    def __init__(self, root: Path, cache: Path | None = None, faults: Faults | None = None) -> None:
        self._faults = faults or Faults()
        meta = next((root / marker for marker in self.markers if (root / marker).exists()), root / self.markers[0])
        devkit = meta.parent
        self.classes: list[str] = []
        with self._faults:
            self.classes = [str(name) for name in column(meta, "class_names")]
        tables = {"train": devkit / "cars_train_annos.mat", "test": _labelled(root, devkit, self._faults)}
        splits = {
            split: self._records(file, nested(root, f"cars_{split}")) if file is not None else []
            for split, file in tables.items()
        }
        super().__init__(root, cache, splits, [meta, *(file for file in tables.values() if file is not None)])

    def _records(self, file: Path, folder: Path) -> list[Record]:
        faults, names = self._faults, CheckedNames(file)
        records: dict[str, Record] = {}
        with faults:
            for place, (name, label, *edges) in entries(file, "annotations", _FIELDS):
                with faults:
                    # Without the classes' names any number is possible.
                    index = whole_number(file, place, label, "class", len(self.classes) or 10**6) - 1
                    name = names.check(str(name), place)
                    try:
                        left, top, right, bottom = (float(edge) for edge in edges)
                    except (TypeError, ValueError):
                        raise fault(file, place, f"the box {edges} is not four numbers") from None
                    # Pixels are counted from 1, and the last one belongs to the box.
                    box = box_of_corners(file, place, left - 1, top - 1, right, bottom)
                    records[place] = Record(f"{folder.name}/{name}", folder / name, index, box)
        missing = missing_keys({place: record.path for place, record in records.items()}, faults)
        faults.missing(missing, lambda place, more: fault(file, place, f"{records[place].path} is not on disk{more}"))
        lost = set(missing)
        return [record for place, record in records.items() if place not in lost]


def _labelled(root: Path, devkit: Path, faults: Faults) -> Path | None:
    """Return the test annotations with labels, beside the images or in the devkit."""
    usual = [root / "cars_test_annos_withlabels.mat", devkit / "cars_test_annos_withlabels.mat"]
    if devkit.parent != root:
        usual.append(devkit.parent / "cars_test_annos_withlabels.mat")
    named = next((file for file in usual if file.exists()), None)
    # As browsers name a second download, and Kaggle's copy has it.
    copies = sorted(root.glob("cars_test_annos_withlabels*.mat")) if named is None else []
    if named is not None or len(copies) == 1:
        return named or copies[0]
    if copies:
        more = f" ({copies[0].name} and {copies[1].name} are there: keep one)"
    else:
        unlabelled = devkit / "cars_test_annos.mat"
        more = f" ({unlabelled} has no labels)" if unlabelled.exists() else ""
    faults.report(gone(usual[0], "the folder passed must be the data set's whole folder", more))
    return None
