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
from bench.posthoc.wrap.batches import batch_of, running
from bench.posthoc.wrap.classifier import Features
from bench.posthoc.wrap.feature_store import Storage
from bench.posthoc.wrap.seen import Seen
from bench.posthoc.wrap.verify import Residual


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
    images_key: str | None,
) -> None:
    """Fill the storage; its ``facts`` then hold the completeness residual over all images.

    Its ``images`` is ``images_key``, or else a digest of all pixels and labels where it is kept in a folder.

    Raises:
        CellError: naming the class, where features are not finite.
        RequestError: where a label is no class, or the split does not hold for an image.
    """
    residual, taken, position, seen = Residual(), Counter[int](), 0, Seen()
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
            why = "; where labels count from 1, give label - 1" if wrong[0] == len(names) else ""
            why = "; it has one logit: give it a row for each class" if last == 0 else why
            raise RequestError(f"label {wrong[0]} in the loader: the classifier has classes 0 to {last}{why}")
        if images_key is None and storage.folder is not None:
            seen.add(batch)
        with running(features.classifier, images):
            x, logits = features.both(images)
        storage.saw(labels, logits.argmax(1).tolist())
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
    storage.images = images_key or seen.hexdigest()
    storage.finish()
