"""Small trees in the official CUB layout, a silent progress, and where the real subsets lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

REAL = Path(__file__).parents[3] / "shared" / "data"
PARTS = [
    "back",
    "beak",
    "belly",
    "breast",
    "crown",
    "forehead",
    "left eye",
    "left leg",
    "left wing",
    "nape",
    "right eye",
    "right leg",
    "right wing",
    "tail",
    "throat",
]
NAMES = ["001.Auk", "002.Wren"]


def real(name: str) -> Path:
    """The folder of a real subset, or a skipped test where it is absent."""
    if not (REAL / name).is_dir():
        pytest.skip(f"the real subset {REAL / name} is not on this machine")
    return REAL / name


class Quiet:
    """A progress that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def track(self, items: Any, what: str, total: int | None = None) -> Iterator[Any]:
        yield from items

    def note(self, message: str) -> None:
        self.notes.append(message)


def make_tree(root: Path, images: int = 6, *, masks: Path | None = None, seed: int = 0) -> Path:
    """A tree of noise images of different sizes, alternating class, every third one a test image.

    Image ids are 10, 20, ... and every key-point lies in its box; part k is invisible in image k.
    """
    draw = np.random.default_rng(seed)
    lines: dict[str, list[str]] = {name: [] for name in ("images", "labels", "split", "boxes", "points")}
    for number in range(images):
        image, label = 10 * (number + 1), number % 2
        width, height = int(draw.integers(40, 80)), int(draw.integers(40, 80))
        name = f"{NAMES[label]}/bird_{number}.png"
        for folder, mode in ((root / "images", "RGB"), (masks, "L")):
            if folder is not None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shape = (height, width, 3) if mode == "RGB" else (height, width)
                Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
        x, y = draw.uniform(0, 15, 2)
        w, h = draw.uniform(20, width - 16), draw.uniform(20, height - 16)
        lines["images"].append(f"{image} {name}")
        lines["labels"].append(f"{image} {label + 1}")
        lines["split"].append(f"{image} {int(number % 3 != 0)}")
        lines["boxes"].append(f"{image} {x:.2f} {y:.2f} {w:.2f} {h:.2f}")
        for part in range(len(PARTS)):
            at = f"{draw.uniform(x + 1, x + w):.3f} {draw.uniform(y + 1, y + h):.3f} 1"
            lines["points"].append(f"{image} {part + 1} {'0.0 0.0 0' if part == number else at}")
    (root / "parts").mkdir()
    for file, rows in {
        "images.txt": lines["images"],
        "classes.txt": [f"{number} {name}" for number, name in enumerate(NAMES, 1)],
        "image_class_labels.txt": lines["labels"],
        "train_test_split.txt": lines["split"],
        "bounding_boxes.txt": lines["boxes"],
        "parts/parts.txt": [f"{number} {name}" for number, name in enumerate(PARTS, 1)],
        "parts/part_locs.txt": lines["points"],
    }.items():
        (root / file).write_text("\n".join(rows) + "\n")
    return root


def edit(file: Path, line: int, text: str | None) -> None:
    """Replace a line (counted from 1) of a file; ``None`` takes it away; one past the end appends."""
    rows = file.read_text().splitlines()
    rows[line - 1 : line] = [] if text is None else [text]
    file.write_text("\n".join(rows) + "\n")
