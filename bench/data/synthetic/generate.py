"""Generator of the data set: pictures and annotations in the official layout of CUB-200-2011."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench.data.synthetic.render import PARTS, Picture, paint
from bench.data.synthetic.species import SPECIES

# Of the JPEG files, from 1 to 100.
_QUALITY = 93


def picture(seed: int, label: int, index: int) -> Picture:
    """Return picture `index` of species `label` (both from 0); it depends on nothing but these three numbers."""
    return paint(SPECIES[label], np.random.default_rng([seed, label, index]))


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

    Args:
        root: Folder to make; must not exist yet, or be empty.
        seed: Seed of every random choice.
        classes: Number of species, at most `len(SPECIES)`.
        train: Training images of each species.
        test: Test images of each species.
        progress: Callback with (images done, images in all), called after each image.

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
    folders = [f"{label + 1:03d}.{SPECIES[label].name}" for label in range(classes)]
    for folder in folders:
        (root / "images" / folder).mkdir(parents=True)
        (root / "segmentations" / folder).mkdir(parents=True)
    (root / "parts").mkdir()
    total = classes * (train + test)
    for number, (label, index) in enumerate(_order(classes, train + test), start=1):
        shot = picture(seed, label, index)
        stem = f"{folders[label]}/{SPECIES[label].name}_{index + 1:04d}"
        shot.image.save(root / "images" / f"{stem}.jpg", quality=_QUALITY, subsampling=0)
        shot.mask.save(root / "segmentations" / f"{stem}.png")
        tables["images.txt"].append(f"{number} {stem}.jpg")
        tables["image_class_labels.txt"].append(f"{number} {label + 1}")
        tables["train_test_split.txt"].append(f"{number} {int(index < train)}")
        tables["bounding_boxes.txt"].append(" ".join([str(number), *(f"{v:.1f}" for v in shot.box)]))
        for part, name in enumerate(PARTS, start=1):
            x, y = shot.points.get(name, (0, 0))
            tables["parts/part_locs.txt"].append(f"{number} {part} {x:.1f} {y:.1f} {int(name in shot.points)}")
        if progress is not None:
            progress(number, total)
    tables["classes.txt"] = [f"{label} {folder}" for label, folder in enumerate(folders, start=1)]
    tables["parts/parts.txt"] = [f"{part} {name}" for part, name in enumerate(PARTS, start=1)]
    for name, lines in tables.items():
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _order(classes: int, images: int) -> Iterator[tuple[int, int]]:
    for label in range(classes):
        for index in range(images):
            yield label, index
