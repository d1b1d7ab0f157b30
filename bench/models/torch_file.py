"""Reader of ``torch.save`` files in both formats without ``torch.load``; tensors are read on request."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from bench.contract import RequestError
from bench.models.pickle_values import Name, Refused, TensorData
from bench.models.safe_pickle import Machine

_LONGEST_ID = 8
_LONGEST_KEY = 100
# Length of the record at the end of an archive, and of the two before it if offsets take 64 bits.
_END, _END_64 = 22, 76
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


@dataclass(frozen=True, eq=False)
class Storage:
    """Run of ``count`` numbers in the file, and its key in the pickle."""

    kind: torch.dtype
    key: str
    count: int


class TorchFile:
    """File of ``torch.save``.

    Attributes:
        content: its value: plain containers, and inert objects in place of instances and tensors.
        names: the globals that it names.
        format: ``zip`` or ``legacy`` (before torch 1.6).

    Raises:
        RequestError: if it is no such file, or calls anything without a stand-in; nothing of it is ever run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise RequestError(f"no file {path}")
        # A small file may describe many large tensors on one storage; an honest one has each number read about once.
        self._size = path.stat().st_size
        self._budget = 2 * self._size + 2**20
        self._machine = Machine(self._persistent, self._size)
        self._storages: dict[str, Storage] = {}
        self._places: dict[str, tuple[int, int]] = {}
        try:
            with path.open("rb") as stream:
                zipped = stream.read(4) == b"PK\x03\x04"
                stream.seek(0)
                self.format = "zip" if zipped else "legacy"
                self.content: Any = self._open_zip(stream) if zipped else self._open_legacy(stream)
        except Refused as error:
            raise RequestError(f"{path} {error}: refused, nothing in it was run") from error
        # A broken archive fails in many ways: names that are no text (ValueError), dates, versions, encryption.
        except (OSError, zipfile.BadZipFile, struct.error, RuntimeError, ValueError, LookupError) as error:
            raise RequestError(f"{path} cannot be read as a file of torch.save ({error})") from error
        self.names, self._tensors = list(self._machine.names), self._machine.tensors
        # It refers back to this object, and the cycle would stay in memory until the next garbage collection.
        del self._machine

    def shape(self, data: TensorData) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            RequestError: if it is no tuple of sizes.
        """
        size = _whole(data.size)
        # torch multiplies them in 64 bits, even if a zero among them makes the product 0.
        if size is None or math.prod(n or 1 for n in size) >= 2**62:
            raise self._broken("a tensor's sizes are no sizes")
        return size

    def tensor(self, data: TensorData) -> Tensor:
        """Read a tensor that :attr:`content` describes, contiguous.

        Raises:
            RequestError: if the description does not fit the file.
        """
        size, stride, begin, span = self._window(data)
        if not span:
            return torch.empty(size, dtype=data.storage.kind)
        # Only the part of the storage that the tensor spans: parts of one long storage are read once each.
        self._budget -= span
        if self._budget < 0:
            raise self._broken("its tensors share storages many times over")
        raw = bytearray(span)
        with self.path.open("rb") as stream:
            stream.seek(begin)
            if stream.readinto(raw) < span:  # type: ignore[attr-defined]
                raise self._broken(f"it ends within storage {data.storage.key}")
        tensor = torch.frombuffer(raw, dtype=data.storage.kind).as_strided(size, stride)
        return tensor.clone(memory_format=torch.contiguous_format)

    def check(self) -> None:
        """Check every storage and tensor against the file, before a reader without such checks opens it.

        Raises:
            RequestError: if a description does not fit.
        """
        for storage in self._storages.values():
            if storage.count * storage.kind.itemsize > self._places.get(storage.key, (0, -1))[1]:
                raise self._broken(f"storage {storage.key} is shorter than its size in the pickle")
        for data in self._tensors:
            self._window(data)

    def _window(self, data: TensorData) -> tuple[tuple[int, ...], tuple[int, ...], int, int]:
        """Return sizes and strides of a tensor, the offset of its first number in the file and the bytes it spans."""
        storage = data.storage
        if not isinstance(storage, Storage) or storage.key not in self._places:
            raise self._broken("a tensor's numbers are not in the file")
        size, stride = self.shape(data), _whole(data.stride)
        if stride is None or len(size) != len(stride) or type(data.offset) is not int:
            raise self._broken("a tensor's strides are no strides")
        last = data.offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) > storage.count or data.offset < 0 or (math.prod(size) and last >= storage.count):
            raise self._broken("a tensor is larger than its storage")
        begin, length = self._places[storage.key]
        width = storage.kind.itemsize
        if storage.count * width > length:
            raise self._broken(f"storage {storage.key} is shorter than its size in the pickle")
        span = (last - data.offset + 1) * width if math.prod(size) else 0
        return size, stride, begin + data.offset * width, span

    def _broken(self, why: str) -> RequestError:
        return RequestError(f"{self.path} is broken: {why}")

    def _open_zip(self, stream: IO[bytes]) -> Any:
        with zipfile.ZipFile(stream) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if len(entries) < len(archive.infolist()):
                raise Refused("has two entries of one name, which torch.save does not write")
            if _directory(stream) != archive.start_dir:
                raise Refused("has something around its archive, which torch.save does not write")
            pickles = [name for name in entries if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise Refused("is a zip archive, but none of torch.save (it has no one data.pkl)")
            prefix = pickles[0].removesuffix("data.pkl")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
                raise Refused("has compressed entries, which torch.save does not write")
            # Python allocates memory for the size that an entry claims.
            if any(
                entry.file_size != entry.compress_size or entry.file_size > self._size for entry in entries.values()
            ):
                raise Refused("has entries that are larger than the file")
            if sum(entry.file_size for entry in entries.values()) > self._size:
                raise Refused("has entries that overlap")
            order = entries.get(f"{prefix}byteorder")
            if order is not None and archive.read(order) != b"little":
                raise Refused("was written on a big-endian machine, which is not supported")
            for name, entry in entries.items():
                if name.startswith(f"{prefix}data/"):
                    self._places[name.removeprefix(f"{prefix}data/")] = (_begin(stream, entry), entry.file_size)
            return self._machine.load(io.BytesIO(archive.read(pickles[0])))

    def _open_legacy(self, stream: IO[bytes]) -> Any:
        if stream.read(1) != b"\x80":
            raise Refused("is no file of torch.save")
        stream.seek(0)
        if self._machine.load(stream) != _LEGACY_MAGIC:
            raise Refused("is a pickle, but not one of torch.save")
        self._machine.load(stream)
        system = self._machine.load(stream)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise Refused("was written on a big-endian machine, which is not supported")
        content = self._machine.load(stream)
        keys = self._machine.load(stream)
        for key in keys if isinstance(keys, list) else [None]:
            if not isinstance(key, str) or key not in self._storages or key in self._places:
                raise Refused("is broken (its list of storages is not that of its tensors)")
            (count,) = struct.unpack("<q", stream.read(8))
            begin, length = stream.tell(), count * self._storages[key].kind.itemsize
            if not 0 <= length <= self._size - begin:
                raise Refused(f"is broken (it ends within storage {key})")
            self._places[key] = (begin, length)
            stream.seek(length, 1)
        return content

    def _persistent(self, name: Any) -> Any:
        if not isinstance(name, tuple) or len(name) > _LONGEST_ID:
            raise Refused("has a persistent id that torch.save does not write")
        match name:
            case ("storage", Name(module=module, name=kind), str(key), _, int(count), *rest) if (
                kind in _TYPES
                and module in ("torch", "torch.cuda")
                and len(key) <= _LONGEST_KEY
                and key.isprintable()
                and count >= 0
                and rest in ([], [None])
            ):
                return self._storages.setdefault(key, Storage(_TYPES[kind], key, count))
            # The legacy format keeps the source of classes beside them; it is ignored.
            case ("module", Name() as kind, *_):
                return kind
        raise Refused("has a persistent id that torch.save does not write")


def _directory(stream: IO[bytes]) -> int:
    """Return the offset of the archive's directory, as the record at the end of the file gives it."""
    # Python derives the offset from the directory's length instead. If the two differ, other readers would see another
    # archive than the one that is checked here.
    stream.seek(-_END, io.SEEK_END)
    (offset,) = struct.unpack("<L", stream.read(_END)[16:20])
    if offset == 2**32 - 1:
        stream.seek(-_END - _END_64, io.SEEK_END)
        (offset,) = struct.unpack("<Q", stream.read(_END_64)[48:56])
    return int(offset)


def _begin(stream: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Return the offset of an entry's bytes, behind its header, whose length is in the header alone."""
    stream.seek(entry.header_offset)
    header = stream.read(30)
    name, extra = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + int(name) + int(extra)


def _whole(sizes: Any) -> tuple[int, ...] | None:
    fine = isinstance(sizes, tuple | list) and len(sizes) < 16 and all(type(n) is int and n >= 0 for n in sizes)
    return tuple(sizes) if fine else None
