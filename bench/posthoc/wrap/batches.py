"""Batches of a user's loader: checked images and labels, their digest, and errors of the classifier on them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import BenchError, RequestError
from bench.core.memory import is_out_of_memory


def batch_of(batch: Any, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, list[int]]:
    """Return images ``(N, 3, H, W)`` on the device in the classifier's precision, and their labels.

    Raises:
        RequestError: if the batch has another form.
    """
    if batch is None:
        raise RequestError("the loader gave no images")
    if hasattr(batch, "images") and hasattr(batch, "labels"):
        images, labels = batch.images, batch.labels
    elif isinstance(batch, list | tuple) and len(batch) >= 2:
        images, labels = batch[0], batch[1]
    else:
        raise RequestError(f"the loader must give batches (images, labels), not {type(batch).__name__}")
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        raise RequestError("the loader must give images as float tensors (N, 3, H, W), normalised for the classifier")
    try:
        numbers = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise RequestError(
            f"the loader must give one whole number per image as labels, not {_shown(labels)}"
        ) from error
    if numbers.ndim != 1 or len(numbers) != len(images) or numbers.is_floating_point() or numbers.is_complex():
        seen = f"{str(numbers.dtype).removeprefix('torch.')} {tuple(numbers.shape)} for {len(images)} images"
        raise RequestError(f"the loader must give one whole number per image as labels, not {seen}")
    return images.to(device, dtype, non_blocking=True), numbers.long().tolist()


def opening(batches: Iterator[Any], device: torch.device, dtype: torch.dtype) -> tuple[Any, Tensor]:
    """Return the first batch that has images, and its images.

    Raises:
        RequestError: if there is none, or a batch has another form.
    """
    for batch in batches:
        images, labels = batch_of(batch, device, dtype)
        if labels:
            return batch, images
    raise RequestError("the loader gave no images")


class BatchDigest:
    """Digest of images and labels in their order, independent of the batches."""

    def __init__(self) -> None:
        self._images, self._labels = hashlib.sha256(), hashlib.sha256()
        self._form: tuple[Any, ...] = ()

    def add(self, batch: Any) -> None:
        """Add a batch ``(images, labels, ...)``."""
        images, labels = (batch.images, batch.labels) if hasattr(batch, "images") else (batch[0], batch[1])
        form = (images.dtype, tuple(images.shape[1:]))
        if len(images) and form != self._form:
            self._form = form
            self._images.update(str(form).encode())
        # As bytes, because numpy has no bfloat16.
        self._images.update(images.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        self._labels.update(",".join(["", *map(str, torch.as_tensor(labels).tolist())]).encode())

    def hexdigest(self) -> str:
        """Return 32 hexadecimal digits."""
        return self._images.hexdigest()[:16] + self._labels.hexdigest()[:16]


def digest_of(loader: Iterable[Any], device: torch.device, dtype: torch.dtype) -> str:
    """Return the digest of all images and labels of a loader.

    Raises:
        RequestError: if a batch has another form.
    """
    seen = BatchDigest()
    for batch in loader:
        batch_of(batch, device, dtype)
        seen.add(batch)
    return seen.hexdigest()


@contextmanager
def running(classifier: nn.Module, images: Tensor) -> Iterator[None]:
    """Turn any error of the classifier on images into one line with their shape.

    Raises:
        RequestError: instead of any error but those of this project and of memory.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, BenchError) or is_out_of_memory(error):
            raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise RequestError(
            f"{type(classifier).__name__} does not run on images {tuple(images.shape)}: {reason}; give images as it "
            "was trained on, and a classifier that returns logits (images, classes)"
        ) from error


def _shown(value: Any) -> str:
    first = value[0] if isinstance(value, list | tuple) and value else value
    return f"{type(value).__name__} of {type(first).__name__}" if first is not value else type(value).__name__
