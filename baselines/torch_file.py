"""Files of ``torch.save``, both formats, without ``torch.load``: what they hold, with tensors read when asked for."""

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

from baselines.pickled import Name, Refused, TensorData
from baselines.safe_pickle import Machine
from bench.contract import RequestError

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
}


@dataclass(frozen=True, eq=False)
class Storage:
    """A run of ``count`` numbers in the file, by its key there."""

    kind: torch.dtype
    key: str
    count: int


class TorchFile:
    """One file.

    Args:
        path: the file.

    Attributes:
        content: what it holds: plain containers, and inert objects in place of instances and tensors.
        names: the globals that it names.
        format: ``zip`` or ``legacy`` (before torch 1.6).

    Raises:
        RequestError: where it is no such file, or wants anything called; nothing of it is ever run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise RequestError(f"no file {path}")
        # A small file may describe many large tensors on one storage; an honest one has each number read about once.
        self._budget = 2 * path.stat().st_size + 2**20
        self._machine = Machine(self._persistent)
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
        except (OSError, zipfile.BadZipFile, struct.error, RuntimeError, NotImplementedError) as error:
            raise RequestError(f"{path} cannot be read as a file of torch.save ({error})") from error
        self.names = list(self._machine.names)

    def shape(self, data: TensorData) -> tuple[int, ...]:
        """The sizes of a tensor.

        Raises:
            RequestError: where they are no sizes.
        """
        size = _whole(data.size)
        if size is None:
            raise self._broken("a tensor's sizes are no sizes")
        return size

    def tensor(self, data: TensorData) -> Tensor:
        """The numbers of a tensor that :attr:`content` describes, contiguous.

        Raises:
            RequestError: where the description does not fit the file.
        """
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
            raise self._broken(f"storage {storage.key} is shorter than it says")
        self._budget -= storage.count * width
        if self._budget < 0:
            raise self._broken("its tensors share storages many times over")
        with self.path.open("rb") as stream:
            stream.seek(begin)
            raw = bytearray(stream.read(storage.count * width))
        if len(raw) < storage.count * width:
            raise self._broken(f"it ends within storage {storage.key}")
        if not raw:
            return torch.empty(size, dtype=storage.kind)
        return torch.frombuffer(raw, dtype=storage.kind).as_strided(size, stride, data.offset).contiguous().clone()

    def _broken(self, why: str) -> RequestError:
        return RequestError(f"{self.path} is broken: {why}")

    def _open_zip(self, stream: IO[bytes]) -> Any:
        with zipfile.ZipFile(stream) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            pickles = [name for name in entries if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise Refused("is a zip archive, but none of torch.save (it has no one data.pkl)")
            prefix = pickles[0].removesuffix("data.pkl")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
                raise Refused("has compressed entries, which torch.save does not write")
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
        for key in self._machine.load(stream):
            (count,) = struct.unpack("<q", stream.read(8))
            if count < 0 or not isinstance(key, str) or key not in self._storages:
                raise Refused("is broken (its list of storages is not that of its tensors)")
            length = count * self._storages[key].kind.itemsize
            self._places[key] = (stream.tell(), length)
            stream.seek(length, 1)
        return content

    def _persistent(self, name: Any) -> Any:
        match name:
            case ("storage", Name(module=module, name=kind), str(key), _, int(count), *rest) if (
                kind in _TYPES and module in ("torch", "torch.cuda") and count >= 0 and rest in ([], [None])
            ):
                return self._storages.setdefault(key, Storage(_TYPES[kind], key, count))
            # The legacy format keeps the source of classes beside them; it is not looked at.
            case ("module", Name() as kind, *_):
                return kind
        raise Refused("has a persistent id that torch.save does not write")


def _begin(stream: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: behind its own header, whose length only the header itself tells."""
    stream.seek(entry.header_offset)
    header = stream.read(30)
    name, extra = struct.unpack("<HH", header[26:30])
    return entry.header_offset + 30 + int(name) + int(extra)


def _whole(sizes: Any) -> tuple[int, ...] | None:
    fine = isinstance(sizes, tuple | list) and all(type(n) is int and n >= 0 for n in sizes) and len(sizes) < 16
    return tuple(sizes) if fine else None
