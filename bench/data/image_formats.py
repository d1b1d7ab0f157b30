"""File formats by their first bytes, independent of the file's name."""

from __future__ import annotations

import re

# Number of bytes of a file that :func:`format_of` and :func:`describe` need.
HEAD = 512

_PREFIXES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
)
_PPM = re.compile(rb"P[1-6f](\s*#|\s+\d)")
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}

_OTHERS = (
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"%PDF", "PDF"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (40, b" EMF", "a Windows metafile"),
    (0, b"\xd0\xcf\x11\xe0", "an OLE file (FlashPix, Thumbs.db)"),
    (4, b"Bud1", "a .DS_Store of macOS"),
    (0, b"\0\x05\x16\x07", "an AppleDouble file (metadata of macOS for another file)"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL ", "JPEG XL"),
    (0, b"\0\0\x01\0", "an icon"),
    (128, b"DICM", "DICOM"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "gzip"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (0, b"version https://git-lfs", "a Git LFS pointer in place of the file"),
)


def format_of(head: bytes) -> str | None:
    """Return the PIL name of the raster format that a file's first bytes show, or ``None``."""
    for prefix, name in _PREFIXES:
        if head.startswith(prefix):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if {b"avif", b"avis"} & set(_brands(head)):
        return "AVIF"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    if _PPM.match(head):
        return "PPM"
    return "TGA" if _is_tga(head) else None


def describe(head: bytes) -> str:
    """Describe a file that is no image of :func:`format_of`, for use in a sentence."""
    if not head:
        return "empty"
    for at, mark, name in _OTHERS:
        if head[at : at + len(mark)] == mark:
            return name
    if brands := _brands(head):
        return "HEIF" if brands[0][:3] in (b"hei", b"hev", b"mif", b"msf") else "a video"
    if not head.strip(b"\0"):
        return "nothing but zeros"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in text:
        return "SVG"
    if text.startswith((b"<!doctype html", b"<html")):
        return "HTML"
    if text.startswith(b"<?xml"):
        return "XML"
    if not re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", head):
        return "text"
    return f"of an unknown format (it begins with {head[:4].hex(' ')})"


def _brands(head: bytes) -> list[bytes]:
    """Return the brands of an ISO media file (ISO/IEC 14496-12, box `ftyp`), its major brand first."""
    if head[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return [head[8:12], *(head[at : at + 4] for at in range(16, end, 4))]


def _is_tga(head: bytes) -> bool:
    """Return whether all fields of a Targa header agree: the format has no magic number at the beginning."""
    if len(head) < 18:
        return False
    mapped, kind, depth = head[1], head[2], head[16]
    fits = {1: (8,), 2: (16, 24, 32), 3: (8, 16)}.get(kind & ~8, ())
    if mapped > 1 or depth not in fits or mapped != (kind & ~8 == 1) or head[17] & 0xC0:
        return False
    if head[7] not in ((15, 16, 24, 32) if mapped else (0,)) or (not mapped and any(head[3:7])):
        return False
    return any(head[12:14]) and any(head[14:16])
