"""Stanford Dogs (Khosla et al. 2011) in its official tree."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from bench.contract import Record
from bench.data.base import Box, Figures, Names, Tree, absent, corners, fault, more
from bench.data.matlab import column, whole


class Dogs(Tree):
    """Dog breeds: ``Images``, the lists ``train_list.mat`` and ``test_list.mat``, and boxes where ``Annotation`` is.

    An image with several dogs has the box around them all.

    Args:
        root: the folder with ``Images``; the lists lie in it or in ``lists`` inside it.
        cache: as in :class:`bench.data.base.Tree`.

    Raises:
        RequestError: one line with the file, the entry and what is wrong there.
    """

    markers = ("train_list.mat", "lists/train_list.mat")
    official = Figures(classes=120, train=12000, test=8580)

    def __init__(self, root: Path, cache: Path | None = None) -> None:
        lists = root if (root / "train_list.mat").exists() else root / "lists"
        files = {split: lists / f"{split}_list.mat" for split in ("train", "test")}
        annotated = (root / "Annotation").is_dir()
        if annotated:
            self.provides = frozenset({"image", "label", "bbox"})
        breeds: dict[int, str] = {}
        names = {split: _names(file, root / "Images", breeds) for split, file in files.items()}
        unused = sorted(set(range(1, max(breeds, default=0) + 1)) - set(breeds))
        if unused:
            raise fault(files["train"], None, f"class {unused[0]} has no image in either list")
        self.classes = [breeds[label] for label in sorted(breeds)]
        splits: dict[str, list[Record]] = {"train": [], "test": []}
        annotations = []
        for split, rows in names.items():
            for name, label in rows:
                annotation = (root / "Annotation" / name).with_suffix("")
                annotations.append(annotation)
                box = _box(annotation) if annotated else None
                splits[split].append(Record(name, root / "Images" / name, label - 1, box))
        super().__init__(root, cache, splits, [*files.values(), *(annotations if annotated else [])])


def _names(file: Path, folder: Path, breeds: dict[int, str]) -> list[tuple[str, int]]:
    """Image names and labels from 1 of one list; ``breeds`` learns the folder of each label."""
    listed, labels = column(file, "file_list"), column(file, "labels")
    if len(listed) != len(labels):
        raise fault(file, None, f"{len(listed)} names and {len(labels)} labels")
    names, rows = Names(file), []
    for number, (text, given) in enumerate(zip(listed, labels, strict=True), 1):
        place = f"entry {number}"
        name = names.check(str(text), place)
        label = whole(file, place, given, "class", 10**6)
        breed = Path(name).parent.as_posix()
        if breeds.setdefault(label, breed) != breed:
            raise fault(file, place, f"class {label} is {breed!r} here and {breeds[label]!r} before")
        rows.append((name, label))
    missing = absent({position: folder / name for position, (name, _) in enumerate(rows)})
    if missing:
        path = folder / rows[missing[0]][0]
        raise fault(file, f"entry {missing[0] + 1}", f"{path} is not on disk{more(missing)}")
    return rows


def _box(file: Path) -> Box:
    """The box around all dogs of an annotation."""
    try:
        text = file.read_bytes()
        if b"<!" in text:
            raise ValueError("it declares entities")  # no annotation does; expanding them may fill the memory
        boxes = [
            [float(box.findtext(edge, "")) for edge in ("xmin", "ymin", "xmax", "ymax")]
            for box in ElementTree.fromstring(text).iter("bndbox")
        ]
    except FileNotFoundError:
        raise fault(file, None, "is not on disk") from None
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise fault(file, None, f"cannot be read as an annotation ({error})") from error
    if not boxes:
        raise fault(file, None, "has no box")
    left, top, right, bottom = zip(*boxes, strict=True)
    return corners(file, "", min(left), min(top), max(right), max(bottom))
