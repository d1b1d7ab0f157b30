"""Classes that are decomposed already, kept in a folder so that an interrupted decomposition goes on after them."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

_SECONDS, _DIGEST = "seconds", "digest"
"""Beside a class's numbers in its file, and none of them: they must not depend on how often it was interrupted."""


class Checkpoint:
    """One file per finished class.

    Args:
        folder: ``None``: nothing is kept.
        key: everything that changes the result; what is left of another key goes.

    Attributes:
        earlier_seconds: what the classes that were found have taken.
        faults: classes whose files are damaged, or other than they were written; they count as not finished.
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
                file.unlink()  # of something else, or of what is not known
            write(marker, json.dumps({"key": digest}))

    def covers(self, classes: int) -> bool:
        """Whether every class is finished."""
        return self._folder is not None and all(self._kept(label) is not None for label in range(classes))

    def read(self, label: int) -> dict[str, Tensor] | None:
        """What :meth:`write` was given for a class; None where it is not finished."""
        kept = self._kept(label)
        if kept is None:
            if self._folder is not None and self._file(label).is_file():
                self.faults.append(label)
            return None
        tensors, numbers, seconds = kept
        self.earlier_seconds += seconds
        self._numbers[label] = numbers
        return tensors

    def _kept(self, label: int) -> tuple[dict[str, Tensor], dict[str, float], float] | None:
        """Tensors, numbers and seconds of a class, if its files are as they were written."""
        if self._folder is None or not self._file(label).is_file():
            return None
        try:
            content = self._file(label).read_bytes()
            numbers = json.loads(self._file(label).with_suffix(".json").read_text())
            seconds, digest = numbers.pop(_SECONDS, 0.0), numbers.pop(_DIGEST)
            return None if digest != _sealed(content, numbers) else (load(content), numbers, float(seconds))
        except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError):
            return None

    def write(self, label: int, tensors: dict[str, Tensor], numbers: dict[str, float], seconds: float) -> None:
        """A class is finished, after so many seconds."""
        self._numbers[label] = numbers
        if self._folder is None:
            return
        file = self._file(label)
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        more = {_SECONDS: seconds, _DIGEST: _sealed(content, numbers)}
        write(file.with_suffix(".json"), json.dumps({**numbers, **more}))
        draft = file.with_suffix(".new")
        draft.write_bytes(content)
        # The file gets its name when it is whole: a class is finished or it is not.
        draft.replace(file)

    def means(self) -> dict[str, float]:
        """Means of the numbers over the classes."""
        found = {}
        # In their order, not in that in which they were finished or found: sums are then the same to the last bit.
        numbers = [self._numbers[label] for label in sorted(self._numbers)]
        for name in numbers[0] if numbers else ():
            # A row of zeros has no share of anything.
            values = [n[name] for n in numbers if math.isfinite(n.get(name, math.nan))]
            if values:
                found[name] = sum(values) / len(values)
        return found

    def _file(self, label: int) -> Path:
        assert self._folder is not None
        return self._folder / f"class-{label:05d}.safetensors"


def _sealed(content: bytes, numbers: dict[str, float]) -> str:
    """A digest of a class's tensors and numbers: what was altered on the disk is not used."""
    return hashlib.sha256(content + json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16]


def _key(marker: Path) -> str | None:
    """What the folder is the decomposition of; ``None`` where that is not said, or no longer readable."""
    try:
        return str(json.loads(marker.read_text())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(file: Path, text: str) -> None:
    """Write a file so that it is either the old one or the whole new one."""
    draft = file.with_name(file.name + ".new")
    draft.write_text(text)
    draft.replace(file)


def fingerprint(classifier: nn.Module) -> str:
    """16 hexadecimal digits that change with any weight, shape, precision or name of the classifier."""
    found = hashlib.sha256()
    for name, tensor in sorted(classifier.state_dict().items()):
        if isinstance(tensor, Tensor):
            found.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
