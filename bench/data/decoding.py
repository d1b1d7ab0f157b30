"""Image files in, whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

from bench.contract import CellError
from bench.data.image_formats import HEAD, described, format_of

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM", "TIFF", "AVIF", "JPEG2000", "TGA")
"""Formats that are read, as PIL names them. None of them runs another program (EPS does) or reads another file."""


def image_format(path: Path) -> str | None:
    """Return which of :data:`FORMATS` a file begins as, by its content alone; ``None``: none of them, or no file.

    Only the first bytes are read: the image may still turn out to be damaged.

    Raises:
        OSError: where the file cannot be opened or read.
    """
    if not path.is_file():  # opening a pipe would wait for its other end
        return None
    with path.open("rb") as file:
        return format_of(file.read(HEAD))


def decode(path: Path) -> Image.Image:
    """The whole image as RGB, without its orientation tag, alpha or later frames.

    Grey images of 16 bits keep their upper 8; wider pixels have no known range and are refused.

    Raises:
        CellError: naming the file, for whatever keeps it from being decoded to the last row: it is none of
            :data:`FORMATS`, it ends early, or it is damaged.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        with path.open("rb") as file, _strict(), _opened(file) as image:
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"{image.width} by {image.height} pixels are too many")
            image.load()
            if image.mode in ("I", "F"):
                raise ValueError("32-bit pixels have no known range")
            if image.mode.startswith("I;16"):
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
            return image.convert("RGB")
    except Exception as error:  # PIL's readers raise whatever broken bytes lead them into
        problem = " ".join(str(error).replace(str(path), "it").split()) or type(error).__name__
        raise CellError(f"{path}: cannot be decoded ({problem}); restore the file") from error


def _opened(file: BinaryIO) -> Image.Image:
    """The image with its header read, by the reader of the one format that its content says.

    PIL gets the open file instead of its name: no reader can then open it again, or map memory that goes where the
    file is cut.
    """
    head = file.read(HEAD)
    name = format_of(head)
    if name not in FORMATS:
        raise ValueError(f"it is {described(head)}, not an image format that is read: {', '.join(FORMATS)}")
    Image.init()
    if name not in Image.OPEN:
        raise ValueError(f"this installation of Pillow cannot read {name}")
    return Image.open(file, formats=(name,))


_lock = threading.Lock()
_reading = {"files": 0, "before": False}


@contextmanager
def _strict() -> Iterator[None]:
    """While any thread decodes, switch off PIL's filling up of files that end early, which others switch on."""
    with _lock:
        if not _reading["files"]:
            _reading["before"] = ImageFile.LOAD_TRUNCATED_IMAGES
        _reading["files"] += 1
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _lock:
            _reading["files"] -= 1
            if not _reading["files"]:
                ImageFile.LOAD_TRUNCATED_IMAGES = bool(_reading["before"])
