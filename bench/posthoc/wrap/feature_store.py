"""Features of all training images, gathered in one pass in any order and read back class by class."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bench.contract import CellError, RequestError
from bench.posthoc.checkpoint import write

Precision = Literal["single", "half"]
_TYPES: dict[str, tuple[Any, torch.dtype]] = {
    "single": (np.float32, torch.float32),
    "half": (np.float16, torch.float16),
}


def forget(folder: Path) -> None:
    """Remove what a decomposition kept in a folder, and the folder where nothing else is in it."""
    for name in ("features.*", "classes-*/class-*", "classes-*/decomposition.json", "class-*", "decomposition.json"):
        for file in folder.glob(name):
            file.unlink()
    for empty in (*folder.glob("classes-*"), folder):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


def _sealed(described: dict[str, Any], content: bytes) -> str:
    """A digest of what is said of features beside them: what was altered on the disk is not used."""
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode() + content).hexdigest()


class Storage:
    """Features ``(n, cells, D)`` with their labels: in memory while they are few, otherwise in a file.

    Args:
        folder: where the file stays for a later run; ``None``: in memory, or in a temporary file that goes away.
        key: what a kept file must have been made with, but for the images.
        precision: in which they are kept. Half takes half the space and rounds to three digits.
        memory: bytes that may be held before they go to a file.
        expected: images that will come, if known, to tell a full disk beforehand.

    Attributes:
        images: what the images were that the features are of; set before :meth:`finish`.
        complete: whether all that is kept was made with this key; whether of these images is for the caller to say.
        seen: labels of all images that came by, also of those that are not kept, and the classifier's answers.
        facts: numbers about them.
    """

    def __init__(
        self, folder: Path | None, key: str, precision: Precision, memory: int, expected: int | None = None
    ) -> None:
        self.folder, self.key, self.precision, self.memory, self.expected = folder, key, precision, memory, expected
        self.facts: dict[str, float] = {}
        self.images = ""
        self.seen: tuple[list[int], list[int]] = ([], [])
        self.grid = (0, 0)
        self._content, self._digest = hashlib.sha256(), ""
        self._numpy, self._torch = _TYPES[precision]
        self._held: list[Tensor] = []
        self._labels: list[int] = []
        self._positions: list[int] = []
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._stream: BinaryIO | None = None
        self._shape: tuple[int, ...] = ()
        self._by_class: dict[int, list[int]] = {}
        self.complete = folder is not None and self._reopen(folder)

    def begin(self) -> None:
        """Forget what an earlier run left, and take in features."""
        self._labels, self._positions, self._by_class, self.seen = [], [], {}, ([], [])
        self._content, self.images = hashlib.sha256(), ""
        self._shape, self.grid, self.facts, self.complete = (), (0, 0), {}, False
        if self.folder is not None:
            (self.folder / "features.json").unlink(missing_ok=True)

    def saw(self, labels: list[int], answers: list[int]) -> None:
        """Take down what images were said to show and what the classifier sees in them."""
        self.seen[0].extend(labels)
        self.seen[1].extend(answers)

    def add(self, features: Tensor, labels: list[int], positions: list[int]) -> None:
        """Take in features ``(n, D, h, w)`` of n images, their labels and their places in the loader's order.

        Raises:
            CellError: naming the class, where a feature is too large for half precision.
            RequestError: where images differ in size, or the disk is too small.
        """
        x = features.detach().flatten(2).mT.to("cpu", torch.float32)
        if self._shape and (tuple(x.shape[1:]) != self._shape or tuple(features.shape[2:]) != self.grid):
            raise RequestError(
                f"features of {features.shape[2]} x {features.shape[3]} cells after {self.grid[0]} x {self.grid[1]}: "
                "let the loader give all images in one size"
            )
        self._shape, self.grid = tuple(x.shape[1:]), (features.shape[2], features.shape[3])
        kept = x.to(self._torch).contiguous()
        if self.precision == "half" and not bool(torch.isfinite(kept).all()):
            worst = labels[int((~torch.isfinite(kept)).flatten(1).any(1).nonzero()[0])]
            raise CellError(f"class {worst}: features are too large for half precision; use precision='single'")
        if self._stream is None and (self.folder is not None or self._bytes(len(self._labels) + len(x)) > self.memory):
            self._open_file()
        if self._stream is None:
            self._held.extend(kept)
        else:
            self._write(kept)
        self._labels += labels
        self._positions += positions

    def finish(self) -> None:
        """No more features come."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            table = {
                "labels": self._labels,
                "positions": self._positions,
                "said": self.seen[0],
                "answers": self.seen[1],
            }
            content = save({name: torch.tensor(values, dtype=torch.long) for name, values in table.items()})
            (self.folder / "features.safetensors").write_bytes(content)
            self._digest = self._content.hexdigest()
            described = {
                "key": self.key,
                "images": self.images,
                "shape": self._shape,
                "grid": self.grid,
                "facts": self.facts,
                "features": self._digest,
            }
            # Written last and in one piece: where it is there, the features are whole.
            write(self.folder / "features.json", json.dumps({**described, "digest": _sealed(described, content)}))
        self._index()

    def count(self, label: int) -> int:
        """How many images of a class there are."""
        return len(self._by_class.get(label, ()))

    def of(self, label: int) -> tuple[Tensor, Tensor]:
        """Features ``(n, cells, D)`` of a class in single precision, and the images' places in the loader's order."""
        rows = self._by_class[label]
        positions = torch.tensor([self._positions[row] for row in rows])
        if self._held:
            return torch.stack([self._held[row] for row in rows]).float(), positions
        whole = np.memmap(self._file, self._numpy, "r", shape=(len(self._labels), *self._shape))
        return torch.from_numpy(whole[rows]).float(), positions

    @property
    def cells(self) -> int:
        """Cells of one image."""
        return self.grid[0] * self.grid[1]

    @property
    def channels(self) -> int:
        """Channels of one cell."""
        return self._shape[1]

    def close(self, keep: bool = False) -> None:
        """Let go of everything; the features of a ``folder`` stay only with ``keep``."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._temporary is not None:
            self._temporary.cleanup()
        self._held = []
        if self.folder is not None and not keep:
            self._file.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        folder = self.folder if self.folder is not None else Path(self._temporary.name if self._temporary else ".")
        return folder / "features.bin"

    def _bytes(self, images: int) -> int:
        return images * math.prod(self._shape) * int(np.dtype(self._numpy).itemsize)

    def _open_file(self) -> None:
        if self.folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="partbench-features-")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
        needed, free = self._bytes(self.expected or len(self._labels)), shutil.disk_usage(self._file.parent).free
        if needed > free:
            raise RequestError(
                f"the features take {needed / 1e9:.1f} GB and {self._file.parent} has {free / 1e9:.1f} GB free: use "
                "precision='half', images_per_class=N, or a folder on a larger disk"
            )
        self._stream = self._file.open("wb")
        for x in self._held:
            self._write(x)
        self._held = []

    def _write(self, x: Tensor) -> None:
        assert self._stream is not None
        content = x.numpy().tobytes()
        self._stream.write(content)
        if self.folder is not None:
            self._content.update(content)

    def _reopen(self, folder: Path) -> bool:
        try:
            described = json.loads((folder / "features.json").read_text())
            content = (folder / "features.safetensors").read_bytes()
            if described.pop("digest") != _sealed(described, content) or described["key"] != self.key:
                return False
            table = {name: values.tolist() for name, values in load(content).items()}
        except (OSError, ValueError, RuntimeError, KeyError, AttributeError, SafetensorError):
            return False
        self._shape, self.grid, self.facts = tuple(described["shape"]), tuple(described["grid"]), described["facts"]
        self.images, self._digest = described["images"], described["features"]
        self._labels, self._positions = table["labels"], table["positions"]
        self.seen = (table["said"], table["answers"])
        self._index()
        return True

    @property
    def readable(self) -> bool:
        """Whether the features themselves are still there, and as they were written; the file is read for it."""
        if self._held:
            return True
        if not self._file.is_file() or self._file.stat().st_size != self._bytes(len(self._labels)):
            return False
        with self._file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == self._digest

    def _index(self) -> None:
        self._by_class = {}
        for row, label in enumerate(self._labels):
            self._by_class.setdefault(label, []).append(row)
