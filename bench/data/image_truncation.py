"""Detection of image files that end early although their decoders accept them and fill up the missing pixels."""

from __future__ import annotations

import io
import random
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_JPEG_MARKER = re.compile(rb"\xff[^\0\xff\xd0-\xd7]")


def refuse_gaps(image: Image.Image) -> None:
    """Refuse an image, not yet loaded, whose strips or tiles do not cover it (uncompressed TIFF).

    Raises:
        ValueError: naming the number of stored pixels.
    """
    if image.format != "TIFF":
        return
    layers = image.tag_v2.get(277, 1) if image.tag_v2.get(284, 1) == 2 else 1
    boxes = [tile[1] for tile in image.tile]
    there = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    wanted = image.width * image.height * layers
    if there < wanted:
        raise ValueError(f"its strips hold {there} of {wanted} pixels")


def refuse_early_end(name: str, image: Image.Image, file: BinaryIO) -> None:
    """Refuse a loaded image whose file holds fewer pixels than its header declares.

    PIL itself refuses a file that was merely cut. It accepts a PNG whose compressed stream ends properly, but
    before the last row (the rest stays black), or that has no end; a JPEG with an end-of-image marker before the last
    row (grey); JPEG 2000 without some of its tiles (black).

    Raises:
        ValueError: naming the amount of stored data.
    """
    if name == "PNG":
        _png(_all(file))
    elif name == "JPEG":
        _jpeg(image, file)
    elif name == "JPEG2000":
        _jpeg2000(_all(file))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of each chunk of a PNG, up to its end."""
    at = 8
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        yield name, data[at + 8 : at + 8 + length]
        at += 12 + length


def _all(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _png(data: bytes) -> None:
    """Check the length of the inflated stream (PNG specification, 7.2 and 8: a filter byte begins each row)."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    wanted = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            wanted += rows * (1 + -(-columns * depth * _CHANNELS[colour] // 8))
    inflate, there, ended = zlib.decompressobj(), 0, False
    for name, content in png_chunks(data):
        ended = ended or name == b"IEND"
        while name == b"IDAT" and content and there < wanted and not inflate.eof:
            there += len(inflate.decompress(content, 2**20))
            content = inflate.unconsumed_tail
    if there < wanted:
        there += len(inflate.flush())
    if there < wanted:
        raise ValueError(f"its pixels end early: {there} of {wanted} bytes are there")
    if not ended:
        raise ValueError("it ends before its IEND chunk")


def _jpeg(image: Image.Image, file: BinaryIO) -> None:
    """Check whether the last block depends on bytes that are appended to the scans.

    Decoders fill missing blocks with the mid-grey of zero coefficients. If the last pixel has it, more bytes are
    appended to each scan: a complete image stays the same, a truncated one changes.
    """
    last = image.getpixel((image.width - 1, image.height - 1))
    if not {127, 128}.issuperset(last if isinstance(last, tuple) else (last,)):
        return
    pieces = (random.Random(number).randbytes(2**12).replace(b"\xff", b"") for number in range(17))
    restarts = (bytes([0xFF, 0xD0 + number % 8]) for number in range(17))  # any marker that a decoder may wait for
    more = b"".join(piece + restart for piece, restart in zip(pieces, restarts, strict=True))
    data, longer, at, marker = _all(file), [], 0, 0xD8
    while marker != 0xD9:
        begin = at + 2 + (0 if marker == 0xD8 else int.from_bytes(data[at + 2 : at + 4], "big"))
        match = _JPEG_MARKER.search(data, begin)
        if match is None:
            return
        longer += [data[at : match.start()], more if marker == 0xDA else b""]
        at, marker = match.start(), data[match.start() + 1]
    with Image.open(io.BytesIO(b"".join([*longer, b"\xff\xd9"])), formats=("JPEG",)) as other:
        if not np.array_equal(np.asarray(image), np.asarray(other)):
            raise ValueError("its pixels end early: an end-of-image marker comes before the last row")


def _jpeg2000(data: bytes) -> None:
    """Check the number of tiles that have a tile-part (ISO/IEC 15444-1, A.4.2 SOT and A.5.1 SIZ)."""
    at = data.find(b"\xff\x4f\xff\x51")
    _, right, bottom, _, _, wide, high, left, top = struct.unpack(">H8I", data[at + 6 : at + 40])
    wanted = -((left - right) // wide) * -((top - bottom) // high)
    at += 2
    while data[at : at + 2] not in (b"\xff\x90", b""):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    tiles = set()
    while data[at : at + 2] == b"\xff\x90":
        tile, length = struct.unpack(">HI", data[at + 4 : at + 10])
        tiles.add(tile)
        at += length or len(data)  # 0: to the end of the codestream
    if len(tiles) < wanted:
        raise ValueError(f"its pixels end early: {len(tiles)} of {wanted} tiles are there")
