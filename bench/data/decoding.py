"""Decoding of image files to RGB, whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from bench.contract import CellError
from bench.data.image_formats import HEAD, describe, format_of
from bench.data.image_truncation import png_chunks, refuse_early_end, refuse_gaps

# PIL's names of the formats that are read. None of them runs another program (EPS does) or reads another file.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM", "TIFF", "AVIF", "JPEG2000", "TGA")

# TIFF tags: BitsPerSample, MaxSampleValue, SMaxSampleValue.
_BITS, _MAX, _SMAX = 258, 281, 341


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
    (:func:`eight_bits`); wider pixels have no known range and are refused. ``info["bits"]`` of
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
        raise ValueError(f"it is {describe(head)}, not an image format that is read: {', '.join(FORMATS)}")
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


def sample_bits(name: str, image: Image.Image, head: bytes) -> int:
    """Return the bits of a sample as the file stores it: 8 or less, or 16 (also 12 in TIFF, any with a PNM's maximum).

    The pixels need not be loaded.
    """
    if name == "PNG":
        return head[24]
    if name == "TIFF":
        return int(max(image.tag_v2.get(_BITS, (1,))))
    return 16 if image.mode.startswith("I") else 8


def eight_bits(name: str, image: Image.Image, bits: int, data: bytes) -> tuple[NDArray[np.uint8], int]:
    """Return grey samples of more than 8 bits as 8 bits ``(height, width)``, and the number of used bits.

    These are the upper 8 of the bits that the file declares significant: PNG ``sBIT``, TIFF ``BitsPerSample``,
    ``SMaxSampleValue`` or ``MaxSampleValue``, a PNM's maximum (which PIL has brought to 16 bits). A file without a
    declaration uses all of them.
    """
    samples = np.asarray(image).astype(np.uint32)
    largest = int(samples.max()).bit_length()
    declared = bits
    if name == "PNG":
        declared = _significant(data, samples) or bits
    elif name == "TIFF":
        limits = image.tag_v2.get(_SMAX), image.tag_v2.get(_MAX)
        stated = next((limit for limit in limits if limit is not None), None)
        if stated is not None:
            # Whole bits: writers store the maximum of each image here, and the images of one data set must not be
            # scaled differently.
            declared = int(max(stated if isinstance(stated, tuple) else (stated,))).bit_length()
    used = max(8, min(bits, max(declared, largest)))  # a declaration that the samples exceed is wrong
    return (samples >> (used - 8)).astype(np.uint8), used


def _significant(data: bytes, samples: NDArray[np.uint32]) -> int | None:
    """Return the significant bits that a PNG declares, if its samples are not shifted to the top of 16 bits."""
    declared = next((content[0] for name, content in png_chunks(data) if name == b"sBIT" and content), None)
    # The PNG specification (11.3.2.7) wants the significant bits shifted to the top. A file that does not shift them
    # shows it: no sample exceeds those bits, and the low bits, which would be zero in a dark shifted image, are in use.
    if declared is None or not 0 < declared < 16 or samples.max() >> declared:
        return None
    return declared if (samples & ((1 << (16 - declared)) - 1)).any() else None


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
