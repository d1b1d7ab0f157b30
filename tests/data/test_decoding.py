"""Which files are images, and that none is taken that ends early."""

import ast
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from bench.contract import CellError
from bench.data.decoding import FORMATS, decode, image_format

ROOT = Path(__file__).resolve().parents[2]
ROWS = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)


def stored(format, pixels=ROWS, mode="RGB", **how):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format, **how)
    return buffer.getvalue()


FILES = {
    "jpeg": ("JPEG", stored("JPEG")),
    "progressive": ("JPEG", stored("JPEG", progressive=True)),
    "png": ("PNG", stored("PNG")),
    "png-palette": ("PNG", stored("PNG", mode="P")),
    "gif": ("GIF", stored("GIF")),
    "bmp": ("BMP", stored("BMP")),
    "webp": ("WEBP", stored("WEBP")),
    "webp-lossless": ("WEBP", stored("WEBP", lossless=True)),
    "ppm": ("PPM", stored("PPM")),
    "pgm": ("PPM", stored("PPM", mode="L")),
    "pbm": ("PPM", stored("PPM", mode="1")),
    "plain": ("PPM", b"P3 # a comment\n2 1 255\n1 2 3 4 5 6\n"),
    "tiff": ("TIFF", stored("TIFF")),
    "tiff-lzw": ("TIFF", stored("TIFF", compression="tiff_lzw")),
    "tiff-big": ("TIFF", stored("TIFF", big_tiff=True)),
    "avif": ("AVIF", stored("AVIF")),
    "jp2": ("JPEG2000", stored("JPEG2000")),
    "j2k": ("JPEG2000", stored("JPEG2000", no_jp2=True)),
    "tga": ("TGA", stored("TGA")),
    "tga-rle": ("TGA", stored("TGA", compression="tga_rle")),
    "tga-grey": ("TGA", stored("TGA", mode="L")),
    "tga-palette": ("TGA", stored("TGA", mode="P")),
}
FOREIGN = {
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "PostScript"),
    "eps-binary": (b"\xc5\xd0\xd3\xc6" + bytes(60), "PostScript"),
    "pdf": (b"%PDF-1.7\n", "PDF"),
    "wmf": (b"\xd7\xcd\xc6\x9a" + bytes(60), "a Windows metafile"),
    "ole": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(60), "an OLE file"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "html": (b"<!DOCTYPE html><html>not found</html>", "HTML"),
    "icon": (stored("ICO"), "an icon"),
    "pcx": (stored("PCX"), "of an unknown format (it begins with 0a 05"),
    "heif": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
    "video": (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", "a video"),
    "zip": (b"PK\x03\x04" + bytes(60), "a ZIP archive"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "apple": (b"\0\x05\x16\x07\0\x02\0\0Mac OS X" + bytes(60), "an AppleDouble file"),
    "text": (b"BMW is a car, P5 is a format\n", "text"),
    "zeros": (bytes(400), "nothing but zeros"),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize("name", FILES)
def test_format_is_told_by_content(tmp_path, name):
    expected, data = FILES[name]
    path = tmp_path / "bird.eps"
    path.write_bytes(data)
    assert image_format(path) == expected
    assert expected in FORMATS
    with Image.open(io.BytesIO(data)) as image:
        np.testing.assert_array_equal(np.asarray(decode(path)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_are_refused_by_name(tmp_path, name):
    data, expected = FOREIGN[name]
    path = tmp_path / "bird.jpg"
    path.write_bytes(data)
    assert image_format(path) is None
    with pytest.raises(CellError) as caught:
        decode(path)
    assert f"it is {expected}" in str(caught.value)
    assert "not an image format that is read: JPEG, PNG" in str(caught.value)


def test_no_format_runs_programs_or_reads_other_files():
    assert not {"EPS", "PS", "PDF", "WMF", "EMF", "FPX", "MIC", "MPEG", "GBR"} & set(FORMATS)


def test_pipe_and_folder_are_no_images(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for path in (tmp_path / "pipe.jpg", tmp_path / "folder.jpg"):
        assert image_format(path) is None
        with pytest.raises(CellError, match="no regular file"):
            decode(path)


@pytest.mark.parametrize("tolerant", [False, True], ids=["strict", "tolerant"])
@pytest.mark.parametrize("name", [name for name in FILES if name != "plain"])
def test_cut_file_is_refused(tmp_path, monkeypatch, name, tolerant):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    expected, data = FILES[name]
    for kept in (0.3, 0.6, 0.9):
        path = tmp_path / f"{kept}.jpg"
        path.write_bytes(data[: int(len(data) * kept)])
        assert image_format(path) == expected
        with pytest.raises(CellError, match=r"cannot be decoded"):
            decode(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is tolerant


def test_tolerance_of_others_comes_back_after_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    (tmp_path / "whole.jpg").write_bytes(FILES["jpeg"][1])
    (tmp_path / "cut.jpg").write_bytes(FILES["jpeg"][1][:2000])

    def refused(number):
        try:
            decode(tmp_path / ("cut.jpg" if number % 2 else "whole.jpg"))
        except CellError:
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(refused, range(200))) == [bool(number % 2) for number in range(200)]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(header, stream, *others, end=True):
    parts = [chunk(b"IHDR", header), *others, chunk(b"IDAT", stream), chunk(b"IEND", b"") if end else b""]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rows(count):
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in ROWS[:count]))


def taller(data, at, layout):
    """The file with another height in its header."""
    return data[:at] + struct.pack(layout, 400) + data[at + struct.calcsize(layout) :]


RGB8 = struct.pack(">IIBBBBB", 48, 64, 8, 2, 0, 0, 0)
TILED = stored("JPEG2000", no_jp2=True, tile_size=(48, 16))
RESTARTS = stored("JPEG", restart_marker_rows=1)
GREYER = np.concatenate([ROWS[:32], np.full_like(ROWS[:32], 128)])
EARLY = {
    "png stream ends properly": png(RGB8, rows(10)),
    "png of one row less": png(RGB8, rows(63)),
    "png interlaced": png(RGB8[:-1] + b"\1", rows(40)),
    "png of bits": png(struct.pack(">IIBBBBB", 9, 9, 1, 0, 0, 0, 0), zlib.compress(b"\0\xff\x80" * 8)),
    "png without end": png(RGB8, rows(64), end=False),
    "jpeg taller": taller(stored("JPEG"), stored("JPEG").find(b"\xff\xc0") + 5, ">H"),
    "jpeg progressive": taller(FILES["progressive"][1], FILES["progressive"][1].find(b"\xff\xc2") + 5, ">H"),
    "jpeg restarts": taller(RESTARTS, RESTARTS.find(b"\xff\xc0") + 5, ">H"),
    "jpeg half": stored("JPEG")[: len(stored("JPEG")) // 2] + b"\xff\xd9",
    "jpeg2000 tiles": TILED[: TILED.index(b"\xff\x90", TILED.index(b"\xff\x90") + 2)] + b"\xff\xd9",
    "bmp": taller(stored("BMP"), 22, "<i"),
    "tga": taller(stored("TGA"), 14, "<H"),
    "gif": stored("GIF")[: len(stored("GIF")) // 2] + b"\0;",
}


@pytest.mark.parametrize("name", EARLY)
def test_missing_rows_are_refused(tmp_path, name):
    (tmp_path / "a").write_bytes(EARLY[name])
    with pytest.raises(CellError, match="cannot be decoded"):
        decode(tmp_path / "a")


def test_missing_strips_of_tiff_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(ROWS).save(path, tiffinfo={278: 64})
    data = bytearray(path.read_bytes())
    begin = struct.unpack("<I", data[4:8])[0]
    for at in range(begin + 2, begin + 2 + 12 * data[begin], 12):
        if struct.unpack("<H", data[at : at + 2])[0] == 257:  # ImageLength
            data[at + 8 : at + 10] = struct.pack("<H", 400)
    path.write_bytes(data)
    with pytest.raises(CellError, match=r"cannot be decoded \(its strips hold 3072 of 19200 pixels\)"):
        decode(path)


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_whole_jpeg_with_grey_corner_is_read(tmp_path, mode, how):
    (tmp_path / "a.jpg").write_bytes(stored("JPEG", GREYER, mode, **how) + b"and more")
    assert decode(tmp_path / "a.jpg").size == (48, 64)


def test_png_forms_are_read(tmp_path):
    path, pixels = tmp_path / "a.png", np.zeros((5, 3), np.uint8)
    for width in range(1, 10):
        for depth in (1, 2, 4, 8):
            row = b"\0" + bytes(-(-width * depth // 8))
            header = struct.pack(">IIBBBBB", width, 7, depth, 0, 0, 0, 0)
            path.write_bytes(png(header, zlib.compress(row * 7)))
            assert decode(path).size == (width, 7)
    # Adam7 of 3 x 5 pixels of one byte: passes of 1x1, 0, 1x1, 1x2, 2x1, 1x3 and 3x2 pixels (PNG, section 8.2)
    sizes = [(1, 1), (1, 1), (1, 2), (2, 1), (1, 3), (3, 2)]
    stream = b"".join((b"\0" + bytes(across)) * down for across, down in sizes)
    header = struct.pack(">IIBBBBB", 3, 5, 8, 0, 0, 0, 1)
    path.write_bytes(png(header, zlib.compress(stream)))
    np.testing.assert_array_equal(np.asarray(decode(path))[..., 0], pixels)
    path.write_bytes(png(header, zlib.compress(stream[:-1])))
    with pytest.raises(CellError):
        decode(path)


GREY12 = np.linspace(0, 4095, 64 * 64).round().astype(np.uint16).reshape(64, 64)


def grey16(samples, *others):
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, 0, 0, 0, 0)
    return png(header, zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)), *others)


def tiff(samples, **tags):
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "TIFF", tiffinfo={int(tag[1:]): value for tag, value in tags.items()})
    return buffer.getvalue()


def tiff12(samples):
    """Two samples in three bytes, as TIFF packs 12 bits."""
    pairs = samples.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    data = packed.astype(np.uint8).tobytes()
    height, width = samples.shape
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, len(data))])
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", 9) + entries + bytes(4)


def pnm(samples, largest):
    return f"P5 {samples.shape[1]} {samples.shape[0]} {largest}\n".encode() + samples.astype(">u2").tobytes()


@pytest.mark.parametrize(
    ("data", "expected", "bits"),
    [
        (grey16(GREY12, chunk(b"sBIT", b"\x0c")), GREY12 >> 4, 12),
        (grey16(GREY12 << 4 | GREY12 >> 8, chunk(b"sBIT", b"\x0c")), GREY12 >> 4, 16),
        (grey16(GREY12 & 0xFF0, chunk(b"sBIT", b"\x0c")), GREY12 >> 8, 16),
        (grey16(GREY12, chunk(b"sBIT", b"\x0a")), GREY12 >> 8, 16),
        (grey16(GREY12), GREY12 >> 8, 16),
        (tiff(GREY12), GREY12 >> 8, 16),
        (tiff(GREY12, _281=4095), GREY12 >> 4, 12),
        (tiff(GREY12, _341=4000), GREY12 >> 4, 12),
        (tiff(GREY12, _281=99), GREY12 >> 4, 12),
        (tiff12(GREY12), GREY12 >> 4, 12),
        (pnm(GREY12, 4095), GREY12 >> 4, 16),
        (pnm(GREY12 * 16, 65535), GREY12 >> 4, 16),
    ],
    ids=[
        *("png-sbit", "png-sbit-shifted", "png-sbit-dark", "png-sbit-wrong", "png", "tiff", "tiff-max", "tiff-smax"),
        *("tiff-max-wrong", "tiff-12", "pgm-4095", "pgm-65535"),
    ],
)
def test_significant_bits_make_the_range(tmp_path, data, expected, bits):
    (tmp_path / "a").write_bytes(data)
    image = decode(tmp_path / "a")
    np.testing.assert_allclose(np.asarray(image)[..., 0], expected, atol=1 if data[:2] == b"P5" else 0)
    assert image.info["bits"] == bits


def test_images_are_opened_in_one_place():
    """No module of the product but decoding, and the check of whole files that it calls, opens an image."""
    openers = {"open", "read_image", "decode_image", "decode_jpeg", "decode_png", "default_loader", "imread"}
    libraries = {"Image", "io", "torchvision", "datasets", "folder", "cv2", "imageio", "plt", "image", "skimage"}
    guilty = set()
    for top in ("bench", "baselines", "metrics"):
        for file in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                called = node.func if isinstance(node, ast.Call) else None
                if isinstance(called, ast.Attribute) and called.attr in openers:
                    owner = (
                        called.value.attr
                        if isinstance(called.value, ast.Attribute)
                        else getattr(called.value, "id", "")
                    )
                    if owner in libraries:
                        guilty.add(file.relative_to(ROOT).as_posix())
                imported = [name.name for name in node.names] if isinstance(node, ast.ImportFrom) else []
                if {"ImageFolder", *openers} & {*imported} and getattr(node, "module", "") not in ("bench.data",):
                    guilty.add(file.relative_to(ROOT).as_posix())
    assert guilty <= {"bench/data/decoding.py", "bench/data/image_truncation.py"}
