"""Torch data set of an image folder: ``FOLDER/CLASS/*.jpg``, or ``FOLDER/train/CLASS/*.jpg``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, Subset

from bench.contract import CellError, RequestError
from bench.data.class_folders import numbers_of, read
from bench.data.decoding import decode
from bench.data.reader_reports import as_text


class ClassImages(Dataset[tuple[Tensor, int]]):
    """Images with the index of their class, read by :mod:`bench.data.class_folders`.

    Of a divided folder these are the training images. The transform, which may be set later, maps a PIL image in RGB to
    a tensor ``(3, H, W)``. Classes are in the order of the classifier's rows, by default that of the folders' sorted
    names.

    Attributes:
        classes: class names; a class folder without images is a class too.
        files: path and label of each image, class by class.
        left_out: files that were not read: see :data:`bench.data.reader_reports.LeftOutRecord`.

    Raises:
        RequestError: if there is no folder, no image, or a folder that is no class.
    """

    def __init__(self, folder: Path, transform: Callable[[Any], Tensor], classes: Sequence[str] | None = None) -> None:
        if not folder.is_dir():
            raise RequestError(f"no folder {folder}")
        content = read(folder)
        root, images = content.folders["train"], content.splits["train"]
        if not images:
            raise RequestError(f"no class folders in {root}: expected {root}/CLASS/*.jpg")
        self.classes = list(images if classes is None else classes)
        labels = numbers_of(self.classes)
        strangers = [name for name in images if name not in labels]
        if strangers:
            raise RequestError(f"{root / strangers[0]} is no class of the list of {len(self.classes)} classes")
        self.files = [(file, label) for name, label in labels.items() if name in images for file in images[name]]
        if not self.files:
            raise RequestError(f"no images in {root}: expected {root}/CLASS/*.jpg")
        self.root, self.left_out, self.transform = root, content.left_out.record(), transform
        self._tested = sum(map(len, content.splits.get("test", {}).values()))

    def summary(self) -> str:
        """Return one line with the numbers of images and classes, the folder, and the files that were left out."""
        text = f"{len(self.files)} images of {len(self.classes)} classes in {self.root}"
        if self._tested:
            text += f"; {self._tested} test images beside it are not used"
        return "; ".join(filter(None, [text, as_text(self.left_out)]))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, label = self.files[index]
        try:
            return self.transform(decode(file)), label
        except CellError as error:
            raise RequestError(str(error)) from error

    def of(self, labels: Sequence[int]) -> Subset[tuple[Tensor, int]]:
        """Return the images of some classes only."""
        wanted = set(labels)
        return Subset(self, [i for i, (_, label) in enumerate(self.files) if label in wanted])
