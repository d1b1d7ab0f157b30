"""Decoding of image files to RGB, whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile

from bench.contract import CellError
from bench.data.image_depth import eight_bits, sample_bits
from bench.data.image_formats import HEAD, described, format_of
from bench.data.image_truncation import refuse_early_end, refuse_gaps

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM", "TIFF", "AVIF", "JPEG2000", "TGA")
"""PIL's names of the formats that are read. None of them runs another program (EPS does) or reads another file."""


def image_format(path: Path) -> str | None:
    """Return the format of :data:`FORMATS` that a file's first bytes show; ``None``: none of them, or no file.

    The image may still turn out to be damaged.

    Raises:
        OSError: if the file cannot be opened or read.
    """
    if not path.is_file():  # opening a pipe would wait for its other end
        return None
    with path.open("rb") as file:
        return format_of(file.read(HEAD))


def decode(path: Path) -> Image.Image:
    """Decode a whole image as RGB, without its orientation tag, alpha or later frames.

    Of grey images of more than 8 bits the upper 8 that they use are kept
    (:func:`bench.data.image_depth.eight_bits`); wider pixels have no known range and are refused. ``info["bits"]`` of
    the result is the number of used bits of a sample; 16 may be stated by a file that holds less.

    Raises:
        CellError: naming the file, if it cannot be decoded to the last row: it is none of :data:`FORMATS`, ends early,
            or is damaged.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        with path.open("rb") as file, _strict():
            head = file.read(HEAD)
            name = _readable(head)
            with Image.open(file, formats=(name,)) as image:  # no name: no reader opens or maps the file by itself
                return _loaded(name, image, head, file)
    except Exception as error:  # broken bytes lead PIL's readers into errors of any type
        problem = " ".join(str(error).replace(str(path), "it").split()) or type(error).__name__
        raise CellError(f"{path}: cannot be decoded ({problem}); restore the file") from error


def _readable(head: bytes) -> str:
    """Return the format that a file's first bytes show."""
    name = format_of(head)
    if name not in FORMATS:
        raise ValueError(f"it is {described(head)}, not an image format that is read: {', '.join(FORMATS)}")
    Image.init()
    if name not in Image.OPEN:
        raise ValueError(f"this installation of Pillow cannot read {name}")
    return name


def _loaded(name: str, image: Image.Image, head: bytes, file: BinaryIO) -> Image.Image:
    """Return the pixels of an opened image as RGB."""
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{image.width} by {image.height} pixels are too many")
    bits = sample_bits(name, image, head)
    refuse_gaps(image)
    image.load()
    refuse_early_end(name, image, file)
    if image.mode == "F" or (image.mode == "I" and name != "PPM"):
        raise ValueError("32-bit pixels have no known range")
    if image.mode.startswith("I"):
        file.seek(0)
        grey, bits = eight_bits(name, image, bits, file.read())
        image = Image.fromarray(grey)
    colour = image.convert("RGB")
    colour.info["bits"] = bits
    return colour


_lock = threading.Lock()
_reading = {"files": 0, "before": False}


@contextmanager
def _strict() -> Iterator[None]:
    """Switch off PIL's filling up of files that end early, which other packages switch on, while any thread decodes."""
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
