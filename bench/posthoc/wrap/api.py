"""Part-prototypes for anyone's classifier: ``decompose(classifier, loader)``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bench.contract import CellError, Progress, RequestError
from bench.posthoc.checkpoint import Checkpoint, fingerprint
from bench.posthoc.decompose_class import DecompositionConfig
from bench.posthoc.pipeline import class_name, decompose_all
from bench.posthoc.progress import LoggingProgress
from bench.posthoc.wrap.classifier import Features, PartPrototypeClassifier, fold
from bench.posthoc.wrap.feature_store import Precision, Storage
from bench.posthoc.wrap.gathering import batch_of, gather
from bench.posthoc.wrap.split import find
from bench.posthoc.wrap.verify import verify

_FIRST = 8
"""Images that the split is found and verified on; every further one is verified as it comes by."""


def decompose(
    classifier: nn.Module,
    loader: Iterable[Any],
    k: int = 3,
    *,
    config: DecompositionConfig | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    class_names: Sequence[str] | None = None,
    folder: Path | str | None = None,
    memory_limit: int = 4 * 2**30,
    precision: Precision = "single",
    images_per_class: int | None = None,
    missing: Literal["refuse", "keep"] = "refuse",
    progress: Progress | None = None,
) -> PartPrototypeClassifier:
    """Write each class's row of a trained classifier as a sum of k part-prototypes (Tan et al., ICML 2024).

    The head must be global average pooling and one linear layer, with or without a norm between them (see
    ``bench.posthoc.wrap.split``). Where it begins is found from one forward pass and verified on every image. The
    classifier is not trained or changed, except that it is put into eval mode; the result shares it.

    Args:
        classifier: any module from images ``(N, 3, H, W)`` to logits ``(N, C)``.
        loader: batches ``(images, labels, ...)``, labels ``(N,)`` from 0, in any order; read once, transforms without
            randomness advised. A part of the training images is enough.
        k: prototypes per class.
        config: settings of the decomposition other than k.
        seed: of the starting points.
        device: where to compute; default: where the classifier is.
        class_names: for messages and drawings; default: the loader's ``dataset.classes``.
        folder: keeps features and finished classes there, so that the same call goes on where it was interrupted; a
            folder made with another classifier or other settings is refused (the images are not compared).
        memory_limit: bytes that features may take at a time; more go to a file.
        precision: of the features in that file.
        images_per_class: most images used of each class, the first ones that come.
        missing: what happens to a class without images: refused, or its row shared out equally.
        progress: told about batches and classes; default: the log ``bench.posthoc``.

    Returns:
        A module with the classifier's logits (to the bit), ``explain(images)`` for the maps of the prototypes,
        ``vectors (C, k, D)``, and ``facts``: ``completeness_residual`` (largest difference of recomposed logits,
        relative), ``maps_residual`` (the same for sums of maps in single precision, on a few images),
        ``row_residual`` (of the prototypes' sums, absolute), ``top1_changed``, ``images``.

    Raises:
        RequestError: the classifier cannot be split, with the reason and what to do; wrong settings or labels.
        CellError: naming the class, where it has no image, fewer features than k, or features that are not finite
            or all zero.

    Example:
        >>> import torch
        >>> from torch import Tensor, nn
        >>> from bench.posthoc import decompose
        >>> classifier = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
        ... )
        >>> images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 0, 0, 1, 1, 1])
        >>> model = decompose(classifier, [(images, labels)], k=2)
        >>> bool((model(images) == classifier(images)).all())
        True
        >>> tuple(model.explain(images).maps.shape)  # images, classes x prototypes, rows, columns
        (6, 4, 6, 6)
    """
    settings = _settings(config, k)
    classifier = _plain(classifier).eval()
    first_parameter = next(classifier.parameters(), None)
    if first_parameter is None:
        raise RequestError(f"{type(classifier).__name__} has no parameters: nothing to decompose")
    if device is not None:
        classifier.to(device)
    place, dtype = first_parameter.device, first_parameter.dtype
    telling = LoggingProgress(progress)

    # One pass over the loader, which may be a generator: the first batch is looked at and put back.
    batches = iter(loader)
    opening = next(batches, None)
    first = batch_of(opening, place, dtype)[0][:_FIRST]
    split = find(classifier, first)
    features = Features(classifier, split).eval()
    verify(features, first)
    telling.note(f"split: {split.summary()}")
    with torch.no_grad():
        rows, bias = features.rows()
    names = _names(class_names, loader, split.classes)

    features_key = f"{fingerprint(classifier)} {split.model_dump_json()} {precision} {images_per_class}"
    where = None if folder is None else Path(folder)
    checkpoint = Checkpoint(where, f"{features_key} {settings.model_dump_json()} {seed} {missing}")
    expected = len(getattr(loader, "dataset", ())) or None
    storage = Storage(where, features_key, precision, memory_limit // 4, expected)
    try:
        if not storage.complete or (not storage.readable and not checkpoint.covers(split.classes)):
            storage.begin()
            total = len(loader) if isinstance(loader, Sized) else None
            whole = telling.track(chain([opening], batches), "batches of features", total)
            gather(features, rows, bias, whole, storage, names, images_per_class, telling)
        _check_classes(storage, names, settings.k, missing)
        vectors, sources = decompose_all(
            settings, rows, storage, checkpoint, seed, memory_limit - memory_limit // 4, names, telling, place
        )
    except BaseException:
        storage.close(keep=True)
        raise
    facts = dict(storage.facts)
    grid = storage.grid
    storage.close()

    vectors = fold(vectors, rows)
    model = PartPrototypeClassifier(features, vectors, bias, names).eval()
    table = model.prototypes
    table.source_image.copy_(sources[:, 0])
    table.source_patch.copy_(torch.stack([sources[:, 1] // grid[1], sources[:, 1] % grid[1]], 1))
    table.source_patch[sources[:, 0] < 0] = -1
    facts["row_residual"] = float((vectors.sum(1) - rows).abs().max())
    facts["maps_residual"] = _maps_residual(model, first)
    model.facts = {**facts, **checkpoint.means()}
    return model


@torch.no_grad()
def _maps_residual(model: PartPrototypeClassifier, images: Tensor) -> float:
    seen = model.explain(images)
    total = seen.scores.unflatten(1, (-1, model.k)).sum(2) + model.bias
    return float((total - seen.logits).abs().max() / seen.logits.abs().max().clamp(min=1e-30))


def _check_classes(storage: Storage, names: Sequence[str], k: int, missing: str) -> None:
    empty = [label for label in range(len(names)) if not storage.count(label)]
    if len(empty) == len(names):
        raise CellError("the loader gave no images")
    if empty and missing == "refuse":
        more = f" and {len(empty) - 1} other classes have" if len(empty) > 1 else " has"
        raise CellError(
            f"{class_name(empty[0], names)}{more} no image to be decomposed from; add some, or pass missing='keep' to "
            "leave such classes undivided"
        )
    for label in range(len(names)):
        most = min(storage.channels, storage.count(label) * storage.cells)
        if 0 < most < k:
            raise CellError(
                f"{class_name(label, names)}: k={k} exceeds the rank of its features, at most {most} "
                f"({storage.channels} channels, {storage.count(label)} images x {storage.cells} cells)"
            )


def _names(given: Sequence[str] | None, loader: Any, classes: int) -> tuple[str, ...]:
    if given is not None:
        if len(given) != classes:
            raise RequestError(f"{len(given)} class_names for a classifier of {classes} classes")
        return tuple(str(name) for name in given)
    found = getattr(getattr(loader, "dataset", None), "classes", None)
    if isinstance(found, list | tuple) and len(found) == classes and all(isinstance(name, str) for name in found):
        return tuple(found)
    return tuple(str(i) for i in range(classes))


def _plain(classifier: nn.Module) -> nn.Module:
    """The module inside ``torch.compile`` and data-parallel wrappers, which hide what happens in it."""
    while True:
        if hasattr(classifier, "_orig_mod"):
            classifier = classifier._orig_mod  # type: ignore[assignment]
        elif isinstance(classifier, nn.DataParallel | nn.parallel.DistributedDataParallel):
            classifier = classifier.module
        else:
            return classifier


def _settings(config: DecompositionConfig | None, k: int) -> DecompositionConfig:
    try:
        settings = DecompositionConfig(**{**(config.model_dump() if config else {}), "k": k})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(x) for x in first["loc"])
        raise RequestError(f"{where}: {first['msg']} (given: {first['input']})") from None
    if settings.refinement == "none":
        raise RequestError("refinement='none' leaves a rest of each row out, so logits would not be the classifier's")
    return settings
