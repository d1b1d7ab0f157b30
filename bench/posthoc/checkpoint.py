"""Checkpoint of a decomposition: a file per finished class, from which an interrupted decomposition resumes."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.contract import RequestError

_SECONDS = "seconds"
"""Key of the time in a class's file; no number of the class, as those must not depend on interruptions."""


class Checkpoint:
    """Folder with one file per finished class.

    Args:
        folder: folder of the checkpoint; ``None``: nothing is stored.
        key: text of everything that changes the result, apart from the images.
        exclusive: whether the folder is for this decomposition alone, so that files of another one are deleted.

    Attributes:
        earlier_seconds: seconds that the classes read so far have taken.

    Raises:
        RequestError: if the folder holds another decomposition and is not ``exclusive``.
    """

    def __init__(self, folder: Path | None, key: str, exclusive: bool = False) -> None:
        self._folder = folder
        self.earlier_seconds = 0.0
        self._numbers: dict[int, dict[str, float]] = {}
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        marker, digest = folder / "decomposition.json", hashlib.sha256(key.encode()).hexdigest()[:16]
        if _key(marker) is None or (exclusive and _key(marker) != digest):
            for file in folder.glob("class-*"):
                file.unlink()  # of another decomposition, or of an unknown one
            write(marker, json.dumps({"key": digest}))
        elif _key(marker) != digest:
            raise RequestError(
                f"{folder} holds the decomposition of another classifier, or with other settings; give another "
                "folder or delete it"
            )

    def covers(self, classes: int) -> bool:
        """Return whether every class is finished."""
        return self._folder is not None and all(self._file(label).is_file() for label in range(classes))

    def read(self, label: int) -> dict[str, Tensor] | None:
        """Read the tensors of a class; ``None`` if it is not finished or its file is damaged."""
        if self._folder is None or not self._file(label).is_file():
            return None
        try:
            tensors = load_file(self._file(label))
            numbers = json.loads(self._file(label).with_suffix(".json").read_text())
        except (SafetensorError, OSError, ValueError):
            return None
        self.earlier_seconds += numbers.pop(_SECONDS, 0.0)
        self._numbers[label] = numbers
        return tensors

    def write(self, label: int, tensors: dict[str, Tensor], numbers: dict[str, float], seconds: float) -> None:
        """Store a finished class.

        Args:
            label: class number.
            tensors: its result.
            numbers: its measurements, for :meth:`means`.
            seconds: time that it took.
        """
        self._numbers[label] = numbers
        if self._folder is None:
            return
        file = self._file(label)
        write(file.with_suffix(".json"), json.dumps({**numbers, _SECONDS: seconds}))
        draft = file.with_suffix(".new")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft)
        # Renamed when it is whole, and after the numbers: this file marks the class as finished.
        draft.replace(file)

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


def _key(marker: Path) -> str | None:
    """Read the digest of a folder's decomposition; ``None`` if the file is missing or damaged."""
    try:
        return str(json.loads(marker.read_text())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(file: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the whole new one."""
    draft = file.with_name(file.name + ".new")
    draft.write_text(text)
    draft.replace(file)


def fingerprint(classifier: nn.Module) -> str:
    """Compute 16 hexadecimal digits that change with any weight, shape, precision or name of the classifier.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> before = fingerprint(layer)
        >>> _ = layer.weight.data.add_(1)
        >>> fingerprint(layer) == before
        False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(classifier.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
