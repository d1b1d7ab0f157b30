"""Stanford Dogs (Khosla et al. 2011) in its official tree."""

from __future__ import annotations

from pathlib import Path

from bench.contract import Record
from bench.data.base import AnnotatedDataset, CheckedNames, PublishedCounts, missing_keys
from bench.data.box_xml import with_box
from bench.data.matlab import column, whole_number
from bench.data.reader_reports import Faults, fault

_NESTED = {"Images": "images", "Annotation": "annotations"}


class Dogs(AnnotatedDataset):
    """Dog breeds: ``Images``, ``train_list.mat``, ``test_list.mat`` and, for boxes, ``Annotation``.

    An image with several dogs has the box around them all. The lists are beside ``Images`` or in the folder ``lists``.

    Raises:
        RequestError: naming the file, the entry and the problem.
    """

    markers = ("train_list.mat", "lists/train_list.mat")
    official = PublishedCounts(classes=120, train=12000, test=8580)

    def __init__(self, root: Path, cache: Path | None = None, faults: Faults | None = None) -> None:
        faults = faults or Faults()
        lists = root if (root / "train_list.mat").exists() else root / "lists"
        files = {split: lists / f"{split}_list.mat" for split in ("train", "test")}
        # Kaggle's copy has a folder more around each.
        images, boxes = (_first(root / name, root / around / name) for name, around in _NESTED.items())
        annotated = boxes.is_dir()
        if annotated:
            self.provides = frozenset({"image", "label", "bbox"})
        breeds: dict[int, str] = {}
        names = {split: _names(file, images, breeds, faults) for split, file in files.items()}
        unused = sorted(set(range(1, max(breeds, default=0) + 1)) - set(breeds))
        if unused:
            faults.report(fault(files["train"], None, f"class {unused[0]} has no image in either list"))
        self.classes = [breeds[label] for label in sorted(breeds)]
        splits: dict[str, list[Record]] = {"train": [], "test": []}
        annotations = []
        for split, rows in names.items():
            for name, label in rows:
                annotation = (boxes / name).with_suffix("")
                annotations.append(annotation)
                record = Record(name, images / name, label - 1)
                splits[split].append(with_box(record, annotation, faults) if annotated else record)
        super().__init__(root, cache, splits, [*files.values(), *(annotations if annotated else [])])


def _first(usual: Path, nested: Path) -> Path:
    return nested if nested.is_dir() and not usual.is_dir() else usual


def _names(file: Path, folder: Path, breeds: dict[int, str], faults: Faults) -> list[tuple[str, int]]:
    """Return image names and labels (from 1) of one list, and add the folder of each label to ``breeds``."""
    names = CheckedNames(file)
    rows: dict[str, tuple[str, int]] = {}
    with faults:
        listed, labels = column(file, "file_list"), column(file, "labels")
        if len(listed) != len(labels):
            raise fault(file, None, f"{len(listed)} names and {len(labels)} labels")
        for number, (text, given) in enumerate(zip(listed, labels, strict=True), 1):
            place = f"entry {number}"
            with faults:
                name = names.check(str(text), place)
                label = whole_number(file, place, given, "class", 10**6)
                breed = Path(name).parent.as_posix()
                if breeds.setdefault(label, breed) != breed:
                    raise fault(file, place, f"class {label} is {breed!r} here and {breeds[label]!r} before")
                rows[place] = (name, label)
    missing = missing_keys({place: folder / name for place, (name, _) in rows.items()}, faults)
    faults.missing(missing, lambda place, more: fault(file, place, f"{folder / rows[place][0]} is not on disk{more}"))
    lost = set(missing)
    return [row for place, row in rows.items() if place not in lost]
