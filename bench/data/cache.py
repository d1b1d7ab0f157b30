"""Cache of preprocessed images: memory-mapped uint8, read in batches by every later stage."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from PIL import __version__ as pillow
from torch import Tensor

from bench.contract import Augment, Batch, CellError, Dataset, Progress, RequestError, Triple
from bench.core import locks
from bench.core.content_digest import state_of
from bench.core.files import ordered_map
from bench.core.integrity import digests_of, seal_of, sha256_of
from bench.core.memory import to_device
from bench.data.preprocessing import Preprocessing

SPLITS = ("train", "test")
# Raised when arrays or their meaning change: a cache of another format is written again.
_FORMAT = 4
# Large files whose content this process has verified, with their status at that time.
_checked: dict[Path, tuple[str | int | None, ...]] = {}

_ARRAYS = ("rows", "labels", "keypoints", "visible", "boxes")


@dataclass(frozen=True, eq=False)
class CachedSplit:
    """Split of preprocessed images, or a subset of one: a :class:`bench.contract.Samples` on a memory-mapped file.

    Attributes:
        images: uint8 ``(m, size, size, 3)``, the whole split, on disk; zeros for a skipped image.
        rows: ``(n,)`` int64, the row of ``images`` of each of the n samples.
        labels, keypoints, visible, boxes, ids, parts: as in the contract; a missing box is NaN.
        class_names: names of all classes of the data set, also of those without an image in a subset.
        digest: content hash of the data set.
        protocol: name of the protocol.
        mean, std: of each RGB channel, with which batches are normalised.
        skipped: id and reason of each image of the split that could not be preprocessed.
        masks: ``(n, size, size)`` grey levels of the object masks, on disk, if they were asked for.
    """

    images: NDArray[np.uint8]
    rows: Tensor
    labels: Tensor
    keypoints: Tensor
    visible: Tensor
    boxes: Tensor
    ids: Sequence[str]
    class_names: Sequence[str]
    parts: Sequence[str]
    digest: str
    protocol: str
    mean: Triple
    std: Triple
    skipped: Sequence[tuple[str, str]]
    masks: NDArray[np.uint8] | None = None

    @property
    def size(self) -> int:
        """Return the side of the square images in pixels."""
        return int(self.images.shape[1])

    @property
    def classes(self) -> int:
        """Return the number of classes of the data set."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, index: Tensor) -> CachedSplit:
        """Return the samples at positions ``index``, in that order; nothing but annotations is read or copied."""
        index = _positions(index, len(self))
        chosen: dict[str, Any] = {name: getattr(self, name)[index] for name in _ARRAYS}
        if self.masks is not None:
            chosen["masks"] = self.masks[index.numpy()]
        return replace(self, ids=[self.ids[position] for position in index.tolist()], **chosen)

    def batches(
        self,
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        index: Tensor | None = None,
        augment: Augment | None = None,
    ) -> Iterator[Batch]:
        """Yield batches in the order of ``index`` (positions in this split; default: all); the last may be smaller.

        Images are float32 ``(N, 3, size, size)`` in ``channels_last`` memory, scaled to 0..1 and normalised with
        :attr:`mean` and :attr:`std` on the device, to the same bits for any batch size and device. Labels are on the
        device too; ``Batch.index`` stays on the CPU with the annotations that it selects.

        Args:
            batch_size: images per batch.
            device: device of images and labels.
            index: int64 ``(m,)``, repeats allowed.
            augment: change of the pixels, scaled to 0..1, on the device; for example
                :func:`bench.data.augmentation.draw`, with one draw per sample of this split (not per entry of
                ``index``).
        """
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size}; it must be 1 or more")
        order = torch.arange(len(self)) if index is None else _positions(index, len(self))
        return self._read(order, batch_size, torch.device(device), augment)

    def _read(self, order: Tensor, batch_size: int, device: torch.device, augment: Augment | None) -> Iterator[Batch]:
        cuda = device.type == "cuda"
        # A row of pixels is normalised as one vector: per channel, the innermost loop would have three steps.
        mean, std = (torch.tensor(values, device=device).repeat(self.size) for values in (self.mean, self.std))
        # A Python number as divisor would become a product with its reciprocal on CUDA: other bits than on the CPU.
        top = torch.tensor(255.0, device=device)

        def read(chunk: Tensor) -> tuple[Tensor, Tensor]:
            pixels = torch.empty((len(chunk), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=cuda)
            # With mode="raise" numpy would read into a buffer first; the positions are checked already.
            np.take(self.images, self.rows[chunk].numpy(), axis=0, out=pixels.numpy(), mode="clip")
            return chunk, pixels

        chunks = order.split(batch_size) if len(order) else ()
        # While a GPU works on a batch, a thread reads the next two. On a CPU it would take a core from the work.
        for chunk, pixels in ordered_map(read, chunks, threads=1, ahead=2) if cuda else map(read, chunks):
            pixels = pixels.to(device, non_blocking=cuda)
            # A CPU works faster image by image, which its cache holds; a GPU on all of them at once.
            step = len(chunk) if cuda else 1
            images = torch.empty(pixels.shape, device=device)
            for target, source in zip(images.split(step), pixels.split(step), strict=True):
                target.copy_(source).div_(top)
            if augment is not None:
                images = augment(images.movedim(-1, 1), chunk).movedim(1, -1).contiguous()
            for target in images.flatten(2).split(step):
                target.sub_(mean).div_(std)
            yield Batch(images.movedim(-1, 1), to_device(self.labels[chunk], device), chunk)


def prepare(
    dataset: Dataset,
    protocol: Preprocessing,
    home: Path,
    progress: Progress,
    on_bad: Literal["error", "skip"] = "error",
) -> dict[str, CachedSplit]:
    """Preprocess the train and test split of a data set, or open them from the cache under ``home``.

    The cache is written to a temporary folder and renamed, so it is whole or absent; processes that need the same one
    wait for the first. A damaged one is written again. It holds pixels before normalisation, so that protocols that
    differ in mean and deviation alone share it. An image that cannot be preprocessed is an error or, with
    ``on_bad='skip'``, left out in a separate cache.

    Raises:
        RequestError: if the data set cannot be used with this protocol.
        CellError: naming a bad image, or the folder to which the cache cannot be written.
    """
    if protocol.crop == "bbox" and "bbox" not in dataset.provides:
        raise RequestError("the data set has no boxes to crop to; use crop=full")
    folder = cache_folder(dataset.digest, protocol, home, on_bad)
    # Damaged bytes lead the readers into any error; the `_open` under the lock reports it.
    with contextlib.suppress(Exception):
        return _open(folder, protocol)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        waiting = f"waiting for another process that prepares {folder.name}"
        with locks.exclusive(folder.with_name(f"{folder.name}.lock"), lambda: progress.note(waiting)):
            if folder.exists():
                try:
                    return _open(folder, protocol)
                except Exception as error:
                    progress.note(f"{folder} is damaged ({error}); it is written again")
                    shutil.rmtree(folder)
            for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
                shutil.rmtree(leftover, ignore_errors=True)
            _write(dataset, protocol, folder, progress, on_bad)
        return _open(folder, protocol)
    except OSError as error:
        problem = f"{error.filename or folder}: {error.strerror or error}"
        raise CellError(f"{problem}; make room and write access there, or set BENCH_HOME") from error


def cache_folder(digest: str, protocol: Preprocessing, home: Path, on_bad: str = "error") -> Path:
    """Return the folder of the cache that :func:`prepare` writes for the data set with that digest."""
    return home / "prepared" / (f"{digest}-{protocol.pixels_name}" + ("-skip" if on_bad == "skip" else ""))


def _open(folder: Path, protocol: Preprocessing) -> dict[str, CachedSplit]:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if meta["format"] != _FORMAT:
        raise ValueError(f"format {meta['format']}, not {_FORMAT}")
    # Caches of earlier versions have neither.
    if "files" in meta and meta.pop("seal", None) != seal_of(meta):
        raise ValueError("meta.json was changed after it was written")
    return {split: _open_split(folder, split, meta, protocol) for split in SPLITS}


def _open_split(folder: Path, split: str, meta: Mapping[str, Any], protocol: Preprocessing) -> CachedSplit:
    ids, skipped = meta["splits"][split]["ids"], meta["splits"][split]["skipped"]
    n, p, size, path = len(ids), len(meta["parts"]), protocol.size, folder / f"{split}.images.npy"
    digests = meta.get("files", {})
    check_large_file(path, digests.get(path.name))
    images = np.load(path, mmap_mode="r")
    annotations = (folder / f"{split}.npz").read_bytes()
    if digests and hashlib.sha256(annotations).hexdigest() != digests.get(f"{split}.npz"):
        raise ValueError(f"{split}.npz was changed after it was written")
    with np.load(io.BytesIO(annotations)) as file:
        arrays = {name: file[name] for name in _ARRAYS}
    expected = {"rows": (n,), "labels": (n,), "keypoints": (n, p, 2), "visible": (n, p), "boxes": (n, 4)}
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise ValueError(f"wrong sizes in {split}.npz")
    whole = path.stat().st_size == images.offset + images.nbytes
    if not whole or images.dtype != np.uint8 or images.shape != (n + len(skipped), size, size, 3):
        raise ValueError(f"wrong sizes in {path.name}")
    return CachedSplit(
        images=np.asarray(images),
        ids=ids,
        class_names=meta["classes"],
        parts=meta["parts"],
        digest=meta["digest"],
        protocol=protocol.name,
        mean=protocol.mean,
        std=protocol.std,
        skipped=[(image, reason) for image, reason in skipped],
        **{name: torch.from_numpy(array) for name, array in arrays.items()},
    )


def check_large_file(path: Path, digest: str | None) -> None:
    """Verify a large file once in each process, and again if it was touched since.

    Raises:
        ValueError: if its sha256 differs from ``digest``; ``None``: it is unknown, so not checked.
    """
    state = (digest, *state_of(path))
    if digest is None or _checked.get(path) == state:
        return
    if sha256_of(path) != digest:
        raise ValueError(f"{path.name} was changed after it was written")
    _checked[path] = state


def _write(dataset: Dataset, protocol: Preprocessing, folder: Path, progress: Progress, on_bad: str) -> None:
    shared = {record.id for record in dataset.split("train")} & {record.id for record in dataset.split("test")}
    if shared:
        raise RequestError(f"{min(shared)} is in both train and test; mend the data set's split")
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        splits = {split: _write_split(dataset, split, protocol, temporary, progress, on_bad) for split in SPLITS}
        meta = {
            "format": _FORMAT,
            "digest": dataset.digest,
            "protocol": protocol.model_dump(exclude={"mean", "std"}),
            "pillow": pillow,
        }
        meta |= {"classes": list(dataset.classes), "parts": list(dataset.parts), "splits": splits}
        meta["files"] = digests_of(temporary)
        # As it will be read: tuples and keys that JSON changes are changed before the content is sealed.
        meta = json.loads(json.dumps(meta))
        text = json.dumps({**meta, "seal": seal_of(meta)}, indent=1)
        (temporary / "meta.json").write_text(text, encoding="utf-8")
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():  # else a process that does not see our lock was faster: its cache is as good
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_split(
    dataset: Dataset, split: str, protocol: Preprocessing, folder: Path, progress: Progress, on_bad: str
) -> dict[str, Any]:
    records = dataset.split(split)
    if not records:
        raise RequestError(f"the {split} split has no images; mend the data set's split")
    n, p = len(records), len(dataset.parts)
    images = allocate(folder / f"{split}.images.npy", (n, protocol.size, protocol.size, 3))
    keypoints, visible, boxes = np.zeros((n, p, 2)), np.zeros((n, p), dtype=bool), np.zeros((n, 4))

    def work(row: int) -> str | None:
        """Fill a row, or return the reason why it cannot be filled."""
        try:
            prepared = protocol.apply(records[row])
        except CellError as error:
            if on_bad == "error":
                raise CellError(f"{error}, or go on without such images: on_bad=skip") from error
            return str(error).removeprefix(f"{records[row].path}: ")
        images[row], boxes[row] = prepared.image.transpose(1, 2, 0), prepared.box
        if records[row].keypoints:
            keypoints[row], visible[row] = prepared.keypoints, prepared.visible
        return None

    problems = list(progress.track(ordered_map(work, range(n)), f"prepare {split}", n))
    images.flush()
    rows = np.array([row for row, problem in enumerate(problems) if problem is None], dtype=np.int64)
    if not len(rows):
        raise CellError(f"no image of the {split} split can be prepared; the first, {records[0].id}: {problems[0]}")
    labels = np.array([record.label for record in records], dtype=np.int64)
    tables = {"labels": labels[rows], "keypoints": keypoints[rows], "visible": visible[rows], "boxes": boxes[rows]}
    np.savez(folder / f"{split}.npz", allow_pickle=False, rows=rows, **tables)
    skipped = [(record.id, problem) for record, problem in zip(records, problems, strict=True) if problem is not None]
    if skipped:
        progress.note(f"{split}: {len(skipped)} of {n} images left out, the first: {skipped[0][0]}: {skipped[0][1]}")
    return {"ids": [records[row].id for row in rows], "skipped": skipped}


def allocate(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """Create a uint8 .npy file with reserved space: writing to a memory map on a full disk would kill the process."""
    array = open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
    return array


def _positions(index: Tensor, n: int) -> Tensor:
    """Return an index as int64 on the CPU, checked: a negative one would silently be another sample's."""
    index = index.detach().cpu().long()
    if index.ndim != 1 or (len(index) and not 0 <= int(index.min()) <= int(index.max()) < n):
        raise IndexError(f"index must be one row of positions from 0 to {n - 1}")
    return index
