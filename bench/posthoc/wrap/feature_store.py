"""Features of all training images, gathered in one pass in any order and read back class by class."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.contract import CellError, RequestError
from bench.posthoc.checkpoint import write

Precision = Literal["single", "half"]
_TYPES: dict[str, tuple[Any, torch.dtype]] = {
    "single": (np.float32, torch.float32),
    "half": (np.float16, torch.float16),
}


class Storage:
    """Features ``(n, cells, D)`` with their labels: in memory while they are few, otherwise in a file.

    Args:
        folder: where the file stays for a later run; ``None``: in memory, or in a temporary file that goes away.
        key: what a kept file must have been made with.
        precision: in which they are kept. Half takes half the space and rounds to three digits.
        memory: bytes that may be held before they go to a file.
        expected: images that will come, if known, to tell a full disk beforehand.
    """

    def __init__(
        self, folder: Path | None, key: str, precision: Precision, memory: int, expected: int | None = None
    ) -> None:
        self.folder, self.key, self.precision, self.memory, self.expected = folder, key, precision, memory, expected
        self.facts: dict[str, float] = {}
        self.grid = (0, 0)
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
        self._labels, self._positions, self._by_class = [], [], {}
        self._shape, self.grid, self.facts, self.complete = (), (0, 0), {}, False
        if self.folder is not None:
            (self.folder / "features.json").unlink(missing_ok=True)

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
            self._stream.write(kept.numpy().tobytes())
        self._labels += labels
        self._positions += positions

    def finish(self) -> None:
        """No more features come."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self.folder is not None:
            table = {"labels": torch.tensor(self._labels), "positions": torch.tensor(self._positions)}
            save_file(table, self.folder / "features.safetensors")
            facts = {"key": self.key, "shape": self._shape, "grid": self.grid, "facts": self.facts}
            # Written last and in one piece: where it is there, the features are whole.
            write(self.folder / "features.json", json.dumps(facts))
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
            self._stream.write(x.numpy().tobytes())
        self._held = []

    def _reopen(self, folder: Path) -> bool:
        try:
            facts = json.loads((folder / "features.json").read_text())
            table = load_file(folder / "features.safetensors")
        except (OSError, ValueError, RuntimeError):
            return False
        if facts["key"] != self.key:
            return False
        self._shape, self.grid, self.facts = tuple(facts["shape"]), tuple(facts["grid"]), facts["facts"]
        self._labels, self._positions = table["labels"].tolist(), table["positions"].tolist()
        self._index()
        return True

    @property
    def readable(self) -> bool:
        """Whether the features themselves are still there, and whole."""
        if self._held:
            return True
        return self._file.is_file() and self._file.stat().st_size == self._bytes(len(self._labels))

    def _index(self) -> None:
        self._by_class = {}
        for row, label in enumerate(self._labels):
            self._by_class.setdefault(label, []).append(row)
