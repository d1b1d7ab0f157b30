"""Generator of the data set: pictures and annotations in the official layout of CUB-200-2011."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.data.synthetic.render import PARTS
from bench.data.synthetic.species import SPECIES
from bench.data.synthetic.workers import drawn, order, stem


def draw(
    root: Path,
    *,
    seed: int = 0,
    classes: int = 10,
    train: int = 40,
    test: int = 20,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draw the demo data set and write it under `root` in the layout of CUB-200-2011.

    The folder appears whole or not at all: pictures go to a sibling folder that is renamed at the end.

    Raises:
        ValueError: If there are not so many species, or no images are asked for.
        FileExistsError: If `root` is not empty.
    """
    if not 1 <= classes <= len(SPECIES):
        raise ValueError(f"classes must be between 1 and {len(SPECIES)}, not {classes}")
    if train < 0 or test < 0 or train + test == 0:
        raise ValueError(f"train and test must count at least one image, not {train} and {test}")
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} is not empty")
    root.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        _write(work, seed, classes, train, test, progress)
        work.chmod(0o755)  # mkdtemp makes it private
        if root.exists():
            root.rmdir()
        work.rename(root)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _write(
    root: Path, seed: int, classes: int, train: int, test: int, progress: Callable[[int, int], None] | None
) -> None:
    tables: dict[str, list[str]] = {
        name: []
        for name in (
            "images.txt",
            "image_class_labels.txt",
            "train_test_split.txt",
            "bounding_boxes.txt",
            "parts/part_locs.txt",
        )
    }
    folders = [Path(stem(label, 0)).parent.name for label in range(classes)]
    for folder in folders:
        (root / "images" / folder).mkdir(parents=True)
        (root / "segmentations" / folder).mkdir(parents=True)
    (root / "parts").mkdir()
    chosen, pictures = order(classes, train + test), drawn(root, seed, classes, train + test)
    for number, ((label, index), (box, points)) in enumerate(zip(chosen, pictures, strict=True), 1):
        tables["images.txt"].append(f"{number} {stem(label, index)}.jpg")
        tables["image_class_labels.txt"].append(f"{number} {label + 1}")
        tables["train_test_split.txt"].append(f"{number} {int(index < train)}")
        tables["bounding_boxes.txt"].append(" ".join([str(number), *(f"{v:.1f}" for v in box)]))
        for part, name in enumerate(PARTS, start=1):
            x, y = points.get(name, (0, 0))
            tables["parts/part_locs.txt"].append(f"{number} {part} {x:.1f} {y:.1f} {int(name in points)}")
        if progress is not None:
            progress(number, len(chosen))
    tables["classes.txt"] = [f"{label} {folder}" for label, folder in enumerate(folders, start=1)]
    tables["parts/parts.txt"] = [f"{part} {name}" for part, name in enumerate(PARTS, start=1)]
    for name, lines in tables.items():
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
