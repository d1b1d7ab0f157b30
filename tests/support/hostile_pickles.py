"""Pickles of a given size that cost far more than others of that size: what each is named for -> its bytes."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

MODULUS = 2**61 - 1
"""Python's hash of a whole number is its remainder by this."""


def g(text: str) -> bytes:
    """A GLOBAL opcode: ``module name``."""
    module, name = text.split(" ")
    return f"c{module}\n{name}\n".encode()


def colliding(count: int, behind: bytes) -> bytes:
    """Numbers of one hash, each with these opcodes behind it."""
    return b"".join(b"\x8a\x0a" + (MODULUS * (i + 5)).to_bytes(10, "little") + behind for i in range(count))


def hostile(size: int) -> dict[str, bytes]:
    """Pickles of about ``size`` bytes."""
    half, keys = size // 2, size // 14
    many = b"](" + b"N" * half + b"eq\x000"
    text = b"X" + struct.pack("<I", half) + b"a" * half + b"q\x000"

    def again(opcodes: bytes) -> bytes:
        return opcodes * (half // len(opcodes)) + b"."

    def called(name: str) -> bytes:
        return g(name) + b"q\x010" + again(b"h\x01h\x00\x85R")

    return {
        "marks taken off one by one": b"\x80\x02" + b"(" * half + b"1" * half + b"N.",
        "marks over a deep stack": b"\x80\x02" + b"N" * half + again(b"(1"),
        "marks": b"\x80\x02" + b"(" * size + b".",
        "one thing again and again": b"\x80\x02N" + b"2" * size + b".",
        "empty sets": b"\x80\x04" + b"\x8f" * size + b".",
        "empty dicts": b"\x80\x02" + b"}" * size + b".",
        "a memo of one thing": b"\x80\x04N" + b"\x94" * size + b".",
        "nested tuples": b"\x80\x02)" + b"\x85" * size + b".",
        "nested lists": b"\x80\x02" + b"]" * half + b"a" * (half - 1) + b".",
        "colliding keys": b"\x80\x02}(" + colliding(keys, b"N") + b"u.",
        "colliding keys one by one": b"\x80\x02}" + colliding(keys, b"Ns") + b".",
        "colliding keys of an instance": g("m C") + b")\x81(" + colliding(keys, b"N") + b"u.",
        "colliding keys of a call": g("collections OrderedDict") + b"](" + colliding(keys, b"N\x86") + b"e\x85R.",
        "colliding tuples": b"\x80\x02}(" + colliding(keys, b"\x85N") + b"u.",
        "colliding members": b"\x80\x04\x8f(" + colliding(keys, b"") + b"\x90.",
        "colliding members of a frozen set": b"\x80\x04(" + colliding(keys, b"") + b"\x91.",
        "colliding members of a call": g("builtins set") + b"(" + colliding(keys, b"") + b"l\x85R.",
        "colliding places in the memo": b"N" + b"".join(b"p%d\n" % (MODULUS * i) for i in range(5, size // 22)) + b".",
        "a long number": b"\x8b" + struct.pack("<i", half) + b"\x01" * half + b"q\x000}" + again(b"h\x00Ns"),
        "attributes again and again": g("m C") + b")\x81}("
        + b"".join(b"X\x06\x00\x00\x00%06xN" % i for i in range(half // 12)) + b"uq\x000" + again(b"h\x00b"),
        "attributes of a dict again and again": many + b"}" + again(b"h\x00b"),
        "copies in sets": many + called("builtins set"),
        "copies in sizes": many + called("torch Size"),
        "copies of a text": text + called("_codecs encode"),
        "long names": text + again(b"h\x00X\x01\x00\x00\x00b\x93"),
        "many arguments": b"(" + b"N" * half + b"tq\x000" + g("torch Size") + b"q\x010" + again(b"h\x01h\x00R"),
        "long persistent ids": b"(" + b"N" * half + b"tq\x000" + again(b"h\x00Q"),
        "instances": g("m C") + b"q\x000" + b"h\x00)\x81" * (size // 4) + b".",
        "text beyond the end": b"\x80\x02X" + struct.pack("<I", 2**31) + b".",
        "bytes beyond the end": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",
        "an array beyond the end": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
        "a frame beyond the end": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    }  # fmt: skip


def zipped(pickled: bytes, path: Path, storages: dict[str, bytes] | None = None) -> Path:
    """Write a file in the format of ``torch.save`` since 1.6."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, raw in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", raw)
        archive.writestr("archive/version", "3\n")
    return path


def legacy(pickled: bytes, path: Path, keys: bytes = pickle.dumps([], 2)) -> Path:
    """Write a file in the format of ``torch.save`` before 1.6."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    path.write_bytes(b"".join([*parts, pickled, keys]))
    return path
