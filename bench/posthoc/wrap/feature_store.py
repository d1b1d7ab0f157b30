"""Store of the features of all training images: gathered in one pass in any order, read back class by class."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bench.contract import CellError, RequestError
from bench.models.split.features import Features
from bench.models.split.verify import Residual
from bench.posthoc.checkpoint import write
from bench.posthoc.pipeline import class_name
from bench.posthoc.progress import LoggingProgress
from bench.posthoc.wrap.batches import BatchDigest, batch_of, running

Precision = Literal["single", "half"]
_TYPES: dict[str, tuple[Any, torch.dtype]] = {
    "single": (np.float32, torch.float32),
    "half": (np.float16, torch.float16),
}


def forget(folder: Path) -> None:
    """Remove the files that a decomposition kept in a folder, and the folder if it is then empty."""
    for name in ("features.*", "classes-*/class-*", "classes-*/decomposition.json", "class-*", "decomposition.json"):
        for file in folder.glob(name):
            file.unlink()
    for empty in (*folder.glob("classes-*"), folder):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


def _sealed(described: dict[str, Any], content: bytes) -> str:
    """Return a digest of the description and tables of features, by which altered files are detected."""
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode() + content).hexdigest()


class FeatureStore:
    """Features ``(n, locations, D)`` with their labels: in memory while they are few, otherwise in a file.

    Args:
        folder: folder of a file that stays for a later call; ``None``: in memory, or in a temporary file.
        key: digest of the classifier and settings that a kept file must have been made with.
        precision: precision of the stored features. Half takes half the space and rounds to three digits.
        memory: bytes that may be held in memory before they go to a file.
        expected: number of images to come, if known, to detect a full disk beforehand.

    Attributes:
        images: key of the images that the features are of; set before :meth:`finish`.
        complete: whether the kept features were made with this key; the caller compares ``images``.
        seen: labels of all images, also of those that are not kept, and the classifier's answers.
        facts: numbers about the features.
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
        """Forget the features of an earlier call, and begin to add new ones."""
        self._labels, self._positions, self._by_class, self.seen = [], [], {}, ([], [])
        self._content, self.images = hashlib.sha256(), ""
        self._shape, self.grid, self.facts, self.complete = (), (0, 0), {}, False
        if self.folder is not None:
            (self.folder / "features.json").unlink(missing_ok=True)

    def saw(self, labels: list[int], answers: list[int]) -> None:
        """Add the labels of images and the classifier's answers."""
        self.seen[0].extend(labels)
        self.seen[1].extend(answers)

    def add(self, features: Tensor, labels: list[int], positions: list[int]) -> None:
        """Add features ``(n, D, h, w)`` of n images, their labels and their positions in the loader's order.

        Raises:
            CellError: naming a class with a feature that is too large for half precision.
            RequestError: if images differ in size, or the disk is too small.
        """
        x = features.detach().flatten(2).mT.to("cpu", torch.float32)
        if self._shape and (tuple(x.shape[1:]) != self._shape or tuple(features.shape[2:]) != self.grid):
            raise RequestError(
                f"features of {features.shape[2]} x {features.shape[3]} locations after {self.grid[0]} x "
                f"{self.grid[1]}: let the loader give all images in one size"
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
        """Finish adding, and write the description of the features."""
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
            # Written last and atomically: if it exists, the features are whole.
            write(self.folder / "features.json", json.dumps({**described, "digest": _sealed(described, content)}))
        self._index()

    def count(self, label: int) -> int:
        """Return the number of images of a class."""
        return len(self._by_class.get(label, ()))

    def of(self, label: int) -> tuple[Tensor, Tensor]:
        """Return features ``(n, locations, D)`` of a class in single precision, and the images' loader positions."""
        rows = self._by_class[label]
        positions = torch.tensor([self._positions[row] for row in rows])
        if self._held:
            return torch.stack([self._held[row] for row in rows]).float(), positions
        whole = np.memmap(self._file, self._numpy, "r", shape=(len(self._labels), *self._shape))
        return torch.from_numpy(whole[rows]).float(), positions

    @property
    def cells(self) -> int:
        """Return the number of locations of one image."""
        return self.grid[0] * self.grid[1]

    @property
    def channels(self) -> int:
        """Return the number of channels of one location."""
        return self._shape[1]

    def close(self, keep: bool = False) -> None:
        """Release memory and files; the features in a ``folder`` stay only with ``keep``."""
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
        """Return whether the features exist and are unaltered; the file is read for it."""
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


@torch.no_grad()
def gather(
    features: Features,
    rows: Tensor,
    bias: Tensor,
    batches: Iterable[Any],
    storage: FeatureStore,
    names: Sequence[str],
    images_per_class: int | None,
    telling: LoggingProgress,
    images_key: str | None,
) -> None:
    """Fill the store in one pass, with the completeness residual over all images in its ``facts``.

    Its ``images`` is ``images_key``, or else, in a folder, a digest of all pixels and labels.

    Raises:
        CellError: naming a class with features that are not finite.
        RequestError: if a label is no class, or the split does not hold for an image.
    """
    residual, taken, position, seen = Residual(), Counter[int](), 0, BatchDigest()
    first = next(features.classifier.parameters())
    device, dtype = first.device, first.dtype
    began = time.perf_counter()
    for batch in batches:
        images, labels = batch_of(batch, device, dtype)
        if not labels:
            continue
        wrong = [label for label in labels if not 0 <= label < len(names)]
        if wrong:
            last = len(names) - 1
            why = "; if labels count from 1, give label - 1" if wrong[0] == len(names) else ""
            why = "; it has one logit: give it a row for each class" if last == 0 else why
            raise RequestError(f"label {wrong[0]} in the loader: the classifier has classes 0 to {last}{why}")
        if images_key is None and storage.folder is not None:
            seen.add(batch)
        with running(features.classifier, images):
            x, logits = features.both(images)
        storage.saw(labels, logits.argmax(1).tolist())
        finite = torch.isfinite(x.flatten(1)).all(1).tolist()
        if not all(finite):
            bad = finite.index(False)
            raise CellError(f"{class_name(labels[bad], names)}: features of image {position + bad} are not finite")
        with torch.autocast(device.type, enabled=False):
            residual.add(x, logits, features.recomposed(x, rows, bias))
        chosen = []
        for i, label in enumerate(labels):
            if images_per_class is None or taken[label] < images_per_class:
                taken[label] += 1
                chosen.append(i)
        if chosen:
            storage.add(x[chosen], [labels[i] for i in chosen], [position + i for i in chosen])
        position += len(labels)
        telling.rarely(f"features of {position} images, {position / (time.perf_counter() - began):.0f} images/s")
    storage.facts = {
        "completeness_residual": residual.largest,
        "top1_changed": float(residual.changed),
        "images": float(position),
    }
    storage.images = images_key or seen.hexdigest()
    storage.finish()
