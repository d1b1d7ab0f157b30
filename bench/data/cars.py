"""Stanford Cars (Krause et al. 2013) in the tree that torchvision's StanfordCars reads."""

from __future__ import annotations

from pathlib import Path

from bench.contract import Record
from bench.data.base import Figures, Names, Tree, absent, corners, fault, more
from bench.data.matlab import column, entries, whole

_FIELDS = ("fname", "class", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


class Cars(Tree):
    """Car models with boxes: ``devkit/*.mat``, ``cars_train``, ``cars_test``, ``cars_test_annos_withlabels.mat``.

    Args:
        root: the folder with ``devkit``.
        cache: as in :class:`bench.data.base.Tree`.

    Raises:
        RequestError: one line with the file, the entry and what is wrong there.
    """

    markers = ("devkit/cars_meta.mat",)
    official = Figures(classes=196, train=8144, test=8041)
    provides = frozenset({"image", "label", "bbox"})

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        meta = root / "devkit" / "cars_meta.mat"
        self.classes = [str(name) for name in column(meta, "class_names")]
        labelled = [root / "cars_test_annos_withlabels.mat", root / "devkit" / "cars_test_annos_withlabels.mat"]
        tables = {
            "train": root / "devkit" / "cars_train_annos.mat",
            "test": next((file for file in labelled if file.exists()), labelled[0]),
        }
        splits = {split: self._records(file, root / f"cars_{split}") for split, file in tables.items()}
        super().__init__(root, cache, splits, [meta, *tables.values()])

    def _records(self, file: Path, folder: Path) -> list[Record]:
        records, names = [], Names(file)
        for place, (name, label, *edges) in entries(file, "annotations", _FIELDS):
            index = whole(file, place, label, "class", len(self.classes)) - 1
            name = names.check(str(name), place)
            try:
                left, top, right, bottom = (float(edge) for edge in edges)
            except (TypeError, ValueError):
                raise fault(file, place, f"the box {edges} is not four numbers") from None
            # Pixels are counted from 1, and the last one belongs to the box.
            box = corners(file, place, left - 1, top - 1, right, bottom)
            records.append(Record(f"{folder.name}/{name}", folder / name, index, box))
        missing = absent({place: folder / name for name, place in names.seen.items()})
        if missing:
            path = next(folder / name for name, place in names.seen.items() if place == missing[0])
            raise fault(file, missing[0], f"{path} is not on disk{more(missing)}")
        return records
