"""What a loader's images and labels were, in one short word, to tell whether kept features are of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch

from bench.posthoc.wrap.batches import batch_of


class Seen:
    """A digest of images and labels in their order, whatever batches they come in."""

    def __init__(self) -> None:
        self._images, self._labels = hashlib.sha256(), hashlib.sha256()
        self._form: tuple[Any, ...] = ()

    def add(self, batch: Any) -> None:
        """Take in a batch ``(images, labels, ...)``."""
        images, labels = (batch.images, batch.labels) if hasattr(batch, "images") else (batch[0], batch[1])
        form = (images.dtype, tuple(images.shape[1:]))
        if len(images) and form != self._form:
            self._form = form
            self._images.update(str(form).encode())
        # As bytes, because numpy has no bfloat16.
        self._images.update(images.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        self._labels.update(",".join(["", *map(str, torch.as_tensor(labels).tolist())]).encode())

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        return self._images.hexdigest()[:16] + self._labels.hexdigest()[:16]


def seen_in(loader: Iterable[Any], device: torch.device, dtype: torch.dtype) -> str:
    """The digest of all images of a loader, which is read through.

    Raises:
        RequestError: where a batch is something else.
    """
    seen = Seen()
    for batch in loader:
        batch_of(batch, device, dtype)
        seen.add(batch)
    return seen.hexdigest()
