"""How many bits of a 16-bit sample a picture uses: cameras and scanners of 12 bits write files of 16."""

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
        name: the format, as PIL names it.
        image: opened; its pixels need not be there.
        head: the first bytes of the file.
    """
    if name == "PNG":
        return head[24]
    if name == "TIFF":
        return int(max(image.tag_v2.get(_BITS, (1,))))
    return 16 if image.mode.startswith("I") else 8


def eight_bits(name: str, image: Image.Image, bits: int, data: bytes) -> tuple[NDArray[np.uint8], int]:
    """Return grey samples of more than 8 bits as 8 bits ``(height, width)``, and how many bits of them were used.

    The upper 8 of the bits that the file says are significant: PNG ``sBIT``, TIFF ``BitsPerSample``,
    ``SMaxSampleValue`` or ``MaxSampleValue`` (whole bits, because writers put the maximum of each picture there, and
    pictures of one set must not be scaled each in another way), a PNM's maximum (which PIL has brought to 16 bits).
    A file that says nothing uses all of them.

    Args:
        name: the format, as PIL names it.
        image: loaded.
        bits: of :func:`sample_bits`.
        data: the whole file.
    """
    samples = np.asarray(image).astype(np.uint32)
    largest = int(samples.max()).bit_length()
    said = bits
    if name == "PNG":
        said = _significant(data, samples) or bits
    elif name == "TIFF":
        limits = image.tag_v2.get(_SMAX), image.tag_v2.get(_MAX)
        stated = next((limit for limit in limits if limit is not None), None)
        if stated is not None:
            said = int(max(stated if isinstance(stated, tuple) else (stated,))).bit_length()
    used = max(8, min(bits, max(said, largest)))  # a statement that the samples exceed is wrong
    return (samples >> (used - 8)).astype(np.uint8), used


def _significant(data: bytes, samples: NDArray[np.uint32]) -> int | None:
    """Bits that a PNG says are significant, where its samples are those bits as they are.

    The PNG specification (11.3.2.7) wants them shifted to the top of 16 bits. A file that does not have them there
    shows it: no sample reaches further than those bits, and the low bits, zeros of a dark picture, are in use.
    """
    said = next((content[0] for name, content in png_chunks(data) if name == b"sBIT" and content), None)
    if said is None or not 0 < said < 16 or samples.max() >> said:
        return None
    return said if (samples & ((1 << (16 - said)) - 1)).any() else None
