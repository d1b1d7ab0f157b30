"""Checkpoint of a decomposition: a file per finished class, from which an interrupted decomposition resumes."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bench.core.files import replacing

# Keys of a class's file that are no numbers of the class, as those must not depend on interruptions.
_SECONDS, _DIGEST = "seconds", "digest"


class Checkpoint:
    """Folder with one file per finished class.

    Args:
        folder: folder of the checkpoint; ``None``: nothing is stored.
        key: text of everything that changes the result; files of another key are deleted.

    Attributes:
        earlier_seconds: seconds that the classes read so far have taken.
        faults: classes whose files are damaged or were altered; they count as not finished.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        self._folder = folder
        self.earlier_seconds = 0.0
        self.faults: list[int] = []
        self._numbers: dict[int, dict[str, float]] = {}
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        marker, digest = folder / "decomposition.json", hashlib.sha256(key.encode()).hexdigest()[:16]
        if _key(marker) != digest:
            for file in folder.glob("class-*"):
                file.unlink()  # of another decomposition, or of an unknown one
            write(marker, json.dumps({"key": digest}))

    def covers(self, classes: int) -> bool:
        """Return whether every class is finished."""
        return self._folder is not None and all(self._stored(label) is not None for label in range(classes))

    def read(self, label: int) -> dict[str, Tensor] | None:
        """Read the tensors of a class; ``None`` if it is not finished or its file is damaged."""
        stored = self._stored(label)
        if stored is None:
            if self._folder is not None and self._file(label).is_file():
                self.faults.append(label)
            return None
        tensors, numbers, seconds = stored
        self.earlier_seconds += seconds
        self._numbers[label] = numbers
        return tensors

    def _stored(self, label: int) -> tuple[dict[str, Tensor], dict[str, float], float] | None:
        """Read tensors, numbers and seconds of a class; ``None`` if its files are not as they were written."""
        if self._folder is None or not self._file(label).is_file():
            return None
        try:
            content = self._file(label).read_bytes()
            numbers = json.loads(self._file(label).with_suffix(".json").read_text())
            seconds, digest = numbers.pop(_SECONDS, 0.0), numbers.pop(_DIGEST)
            return None if digest != _digest(content, numbers) else (load(content), numbers, float(seconds))
        except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError):
            return None

    def write(self, label: int, tensors: dict[str, Tensor], numbers: dict[str, float], seconds: float) -> None:
        """Store a finished class."""
        self._numbers[label] = numbers
        if self._folder is None:
            return
        file = self._file(label)
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        more = {_SECONDS: seconds, _DIGEST: _digest(content, numbers)}
        write(file.with_suffix(".json"), json.dumps({**numbers, **more}))
        # Renamed when it is whole, and after the numbers: this file marks the class as finished.
        with replacing(file) as draft:
            draft.write_bytes(content)

    def means(self) -> dict[str, float]:
        """Compute the mean of each number over the classes for which it is finite."""
        means = {}
        # In the order of classes, not in that of reading and finishing: sums are then the same to the last bit.
        numbers = [self._numbers[label] for label in sorted(self._numbers)]
        for name in numbers[0] if numbers else ():
            # Shares of a row of zeros are 0 / 0.
            values = [n[name] for n in numbers if math.isfinite(n.get(name, math.nan))]
            if values:
                means[name] = sum(values) / len(values)
        return means

    def _file(self, label: int) -> Path:
        assert self._folder is not None
        return self._folder / f"class-{label:05d}.safetensors"


def _digest(content: bytes, numbers: dict[str, float]) -> str:
    """Compute a digest of a class's tensors and numbers, by which altered files are recognised."""
    return hashlib.sha256(content + json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16]


def _key(marker: Path) -> str | None:
    """Read the digest of a folder's decomposition; ``None`` if the file is missing or damaged."""
    try:
        return str(json.loads(marker.read_text())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(file: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the whole new one."""
    with replacing(file) as draft:
        draft.write_text(text)
