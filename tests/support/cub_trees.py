"""Small trees in the official CUB layout, a silent progress, and where the real subsets lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.support.samples import Silent as Quiet  # noqa: F401 (tests of data sets take it from here)

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


def picture(file: Path, seed: int = 0, size: tuple[int, int] = (50, 40)) -> Path:
    """A noise image, width by height."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


def cell_array(values: list[Any]) -> np.ndarray[Any, Any]:
    """A column of cells, as MATLAB keeps names."""
    cells = np.empty((len(values), 1), dtype=object)
    cells[:, 0] = values
    return cells


def car_table(file: Path, rows: list[tuple[Any, ...]], fields: tuple[str, ...] = ()) -> None:
    """Annotations of Stanford Cars: ``(fname, class, x1, y1, x2, y2)`` per image."""
    names = fields or ("fname", "class", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
    table = np.array([rows], dtype=[(name, object) for name in names]) if rows else np.empty((1, 0))
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"annotations": table})


def make_cars(root: Path, per_class: int = 3, classes: int = 2) -> Path:
    """A tree of Stanford Cars: images of 50 by 40 pixels with boxes from (6, 4) to (45, 36), counted from 1."""
    devkit = root / "devkit"
    devkit.mkdir(parents=True)
    names = np.empty((1, classes), dtype=object)
    names[0] = [f"Maker Model {number}" for number in range(classes)]
    savemat(devkit / "cars_meta.mat", {"class_names": names})
    for split, file in (
        ("train", devkit / "cars_train_annos.mat"),
        ("test", root / "cars_test_annos_withlabels.mat"),
    ):
        rows = []
        for number in range(per_class * classes):
            name = f"{number + 1:05d}.png"
            picture(root / f"cars_{split}" / name, seed=number + 1000 * (split == "test"))
            rows.append((name, number % classes + 1, 6, 4, 45, 36))
        car_table(file, rows)
    return root


def make_dogs(root: Path, *, lists: str = "", boxes: bool = True) -> Path:
    """A tree of Stanford Dogs: two breeds with three training and two test images; the last one shows two dogs."""
    (root / lists).mkdir(parents=True, exist_ok=True)
    breeds = ["n1-Chow", "n2-Pug"]
    for split, count in (("train", 3), ("test", 2)):
        names = [f"{breed}/{split}_{number}.jpg" for breed in breeds for number in range(count)]
        for seed, name in enumerate(names):
            picture(root / "Images" / name, seed + 100 * (split == "test"))
            if boxes:
                file = (root / "Annotation" / name).with_suffix("")
                file.parent.mkdir(parents=True, exist_ok=True)
                dogs = [(3, 2, 30, 20)] + [(10, 1, 40, 33)] * (name == names[-1])
                file.write_text(
                    "<annotation><size><width>50</width></size>"
                    + "".join(
                        "<object><bndbox>"
                        f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
                        for x1, y1, x2, y2 in dogs
                    )
                    + "</annotation>"
                )
        labels = np.repeat(np.arange(1, 3, dtype=np.uint8), count)[:, None]
        savemat(root / lists / f"{split}_list.mat", {"file_list": cell_array(names), "labels": labels})
    return root
