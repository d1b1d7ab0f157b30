"""An image folder: ``FOLDER/CLASS/*.jpg``, or ``FOLDER/train/CLASS/*.jpg``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bench.contract import CellError, RequestError
from bench.data.decoding import decode

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images with the number of their class.

    Args:
        folder: see above.
        transform: from a PIL image in RGB to a tensor ``(3, H, W)``.
        classes: names of the classes in the order of the classifier's rows; default: the folders' names, sorted.

    Attributes:
        classes: the names.
        files: path and label of each image, class by class.

    Raises:
        RequestError: where there is no folder, no image, or a folder that is no class.
    """

    def __init__(self, folder: Path, transform: Callable[[Any], Tensor], classes: Sequence[str] | None = None) -> None:
        if not folder.is_dir():
            raise RequestError(f"no folder {folder}")
        root = folder / "train" if (folder / "train").is_dir() else folder
        found = sorted(child.name for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
        if not found:
            raise RequestError(f"no class folders in {root}: expected {root}/CLASS/*.jpg")
        self.classes = list(found if classes is None else classes)
        strangers = sorted(set(found) - set(self.classes))
        if strangers:
            raise RequestError(f"{root / strangers[0]} is no class of the list of {len(self.classes)} classes")
        if len(set(self.classes)) < len(self.classes):
            raise RequestError("the list of classes names one twice")
        self.files = [
            (file, label)
            for label, name in enumerate(self.classes)
            if (root / name).is_dir()
            for file in sorted((root / name).rglob("*"))
            if file.suffix.lower() in ENDINGS and not file.name.startswith(".")
        ]
        if not self.files:
            raise RequestError(f"no images in {root}: expected {root}/CLASS/*.jpg")
        self._transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, label = self.files[index]
        try:
            return self._transform(decode(file)), label
        except CellError as error:
            raise RequestError(str(error)) from error

    def of(self, labels: Sequence[int]) -> torch.utils.data.Subset[tuple[Tensor, int]]:
        """The images of some classes only."""
        wanted = set(labels)
        return torch.utils.data.Subset(self, [i for i, (_, label) in enumerate(self.files) if label in wanted])
