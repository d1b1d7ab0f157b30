"""Bit depth of grey images: cameras and scanners of 12 bits write files of 16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.data.image_truncation import png_chunks

_BITS, _MAX, _SMAX = 258, 281, 341
"""TIFF tags: BitsPerSample, MaxSampleValue, SMaxSampleValue."""


def sample_bits(name: str, image: Image.Image, head: bytes) -> int:
    """Return the bits of a sample as the file stores it: 8 or less, or 16 (also 12 in TIFF, any with a PNM's maximum).

    Args:
        name: PIL's name of the format.
        image: opened image; its pixels need not be loaded.
        head: the first bytes of the file.
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

    Args:
        name: PIL's name of the format.
        image: loaded image.
        bits: result of :func:`sample_bits`.
        data: the whole file.
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
