"""Batches of anyone's loader: images and labels, checked, and the classifier run on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import BenchError, RequestError
from bench.core.memory import is_out_of_memory


def batch_of(batch: Any, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, list[int]]:
    """Images ``(N, 3, H, W)`` on the device in the classifier's precision, and their labels.

    Raises:
        RequestError: where a batch is something else.
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
    """The first batch that has images, and its images; empty ones before it say nothing.

    Raises:
        RequestError: where there is none, or a batch is something else.
    """
    for batch in batches:
        images, labels = batch_of(batch, device, dtype)
        if labels:
            return batch, images
    raise RequestError("the loader gave no images")


@contextmanager
def running(classifier: nn.Module, images: Tensor) -> Iterator[None]:
    """Turn whatever the classifier raises on images into one line that says on which.

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
