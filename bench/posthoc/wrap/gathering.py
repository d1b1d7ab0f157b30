"""One pass over a loader: features into the storage, the split verified on every image."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.contract import CellError, RequestError
from bench.posthoc.pipeline import class_name
from bench.posthoc.progress import LoggingProgress
from bench.posthoc.wrap.classifier import Features
from bench.posthoc.wrap.feature_store import Storage
from bench.posthoc.wrap.verify import Residual


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
    labels = torch.as_tensor(labels)
    if labels.ndim != 1 or len(labels) != len(images) or labels.is_floating_point():
        raise RequestError(f"the loader must give one whole number per image as labels, not {tuple(labels.shape)}")
    return images.to(device, dtype, non_blocking=True), labels.tolist()


@torch.no_grad()
def gather(
    features: Features,
    rows: Tensor,
    bias: Tensor,
    batches: Iterable[Any],
    storage: Storage,
    names: Sequence[str],
    images_per_class: int | None,
    telling: LoggingProgress,
) -> None:
    """Fill the storage; its ``facts`` then hold the completeness residual over all images.

    Raises:
        CellError: naming the class, where features are not finite.
        RequestError: where a label is no class, or the split does not hold for an image.
    """
    residual, taken, position = Residual(), Counter[int](), 0
    first = next(features.classifier.parameters())
    device, dtype = first.device, first.dtype
    began = time.perf_counter()
    for batch in batches:
        images, labels = batch_of(batch, device, dtype)
        wrong = [label for label in labels if not 0 <= label < len(names)]
        if wrong:
            raise RequestError(f"label {wrong[0]} in the loader: the classifier has classes 0 to {len(names) - 1}")
        x, logits = features.both(images)
        finite = torch.isfinite(x.flatten(1)).all(1).tolist()
        if not all(finite):
            where = finite.index(False)
            raise CellError(f"{class_name(labels[where], names)}: features of image {position + where} are not finite")
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
    storage.finish()
