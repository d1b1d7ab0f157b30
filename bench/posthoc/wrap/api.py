"""Part-prototypes for any classifier: ``decompose(classifier, loader)``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence, Sized
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bench.contract import CellError, Progress, RequestError
from bench.core.compat import freed_memory_kept
from bench.core.files import first_problem
from bench.core.memory import is_out_of_memory
from bench.models.fingerprint import fingerprint
from bench.models.split.features import Features
from bench.models.split.find import find
from bench.models.split.verify import verify
from bench.posthoc.checkpoint import Checkpoint
from bench.posthoc.decompose_class import DecompositionConfig
from bench.posthoc.pipeline import class_name, decompose_all
from bench.posthoc.progress import LoggingProgress
from bench.posthoc.wrap.batches import digest_of, opening, running
from bench.posthoc.wrap.classifier import PartPrototypeClassifier, fold
from bench.posthoc.wrap.feature_store import FeatureStore, Precision, gather
from bench.posthoc.wrap.labels import check

# Number of images on which the split is found and verified; later ones are verified while they are gathered.
_FIRST = 8


@freed_memory_kept()
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
    check_labels: bool = True,
    images_key: str | None = None,
    progress: Progress | None = None,
) -> PartPrototypeClassifier:
    """Write each class's row of a trained classifier as a sum of k part-prototypes (Tan et al., ICML 2024).

    The head must be global average pooling and one linear layer, with or without a norm between them (see
    ``bench.models.split.find``). Its start is found from one forward pass and verified on every image. The classifier
    is not trained or changed, except that it is put into eval mode; the result shares it.

    Args:
        classifier: any module from images ``(N, 3, H, W)`` to logits ``(N, C)``.
        loader: batches ``(images, labels, ...)``, labels ``(N,)`` from 0, in any order; read once, transforms without
            randomness advised. A part of the training images is enough.
        k: prototypes per class.
        config: settings of the decomposition other than k.
        seed: seed of the initialisation.
        device: device of the computation; default: the classifier's.
        class_names: names in messages and drawings; default: the loader's ``dataset.classes``.
        folder: folder for features and finished classes, so that an interrupted call can be resumed. Those of another
            classifier, other images, labels or settings are not used but made again, which is logged.
        memory_limit: bytes that features may take at a time; more go to a file.
        precision: precision of the features in that file.
        images_per_class: most images used of each class, the first ones of the loader.
        missing: a class without images is refused, or its row divided equally.
        check_labels: refuse labels that contradict the classifier's answers for sure (another order of the classes
            fits far better, or accuracy is chance); ``False``: only warn.
        images_key: a word that changes with any image, label or transform, if the caller knows one. Otherwise the
            pixels and labels themselves are compared, for which the loader is read again if ``folder`` has features.
        progress: counts batches and classes; default: the log ``bench.posthoc``.

    Returns:
        A module with the classifier's logits (to the bit), ``explain(images)`` for the maps of the prototypes,
        ``vectors (C, k, D)``, and ``facts``: ``completeness_residual`` (largest difference of recomposed logits,
        relative), ``maps_residual`` (the same for sums of maps in single precision, on a few images),
        ``row_residual`` (of the prototypes' sums, absolute), ``accuracy`` (of the classifier on the given labels, in
        %), ``top1_changed``, ``images``.

    Raises:
        RequestError: the classifier cannot be split or run, with the reason and the cure; wrong settings or labels.
            :class:`bench.posthoc.wrap.labels.WrongLabels` names the order of the classes that fits.
        CellError: naming a class that has no image, fewer features than k, or features that are not finite or all
            zero.

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
    kept_in = None if folder is None else Path(folder)
    _check_options(classifier, loader, kept_in, class_names, memory_limit, precision, images_per_class, missing, seed)
    classifier = _plain(classifier).eval()
    first_parameter = next(classifier.parameters(), None)
    if first_parameter is None:
        raise RequestError(f"{type(classifier).__name__} has no parameters: nothing to decompose")
    try:
        wanted = first_parameter.device if device is None else torch.device(device)
        if wanted.type not in ("cpu", "cuda"):  # MPS has no double precision, which residuals are taken in
            raise RequestError(f"device {wanted}: only cpu and cuda are supported; pass device='cpu'")
        if device is not None:
            classifier.to(device)
    except (RuntimeError, AssertionError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).split("\n")[0]
        raise RequestError(f"the classifier cannot go to device {device!r} ({reason})") from error
    place, dtype = first_parameter.device, first_parameter.dtype
    telling = LoggingProgress(progress)

    # One pass over the loader, which may be a generator: the first batch is read and put back.
    batches = iter(loader)
    head, first = opening(batches, place, dtype)
    first = first[:_FIRST]
    with running(classifier, first):
        split = find(classifier, first)
        features = Features(classifier, split).eval()
        verify(features, first)
    telling.note(f"split: {split.summary()}")
    with torch.no_grad():
        rows, bias = features.rows()
    names = _names(class_names, loader, split.classes)

    made_with = f"{fingerprint(classifier)} {split.model_dump_json()} {precision} {images_per_class} {names}"
    expected = len(getattr(loader, "dataset", ())) or None
    storage = FeatureStore(kept_in, _digest(made_with), precision, memory_limit // 4, expected)

    def finished() -> Checkpoint:
        """Open the finished classes of these features and settings; others in the folder are not touched."""
        key = f"{made_with} {storage.images} {settings.model_dump_json()} {seed}"
        return Checkpoint(None if kept_in is None else kept_in / f"classes-{_digest(key)}", key)

    try:
        good, read = _still_good(storage, loader, batches, images_key, place, dtype, telling)
        if good and not finished().covers(split.classes) and not storage.readable:
            telling.note(f"features in {kept_in} are incomplete, damaged or were altered: gathered again")
            good = False
        if not good:
            storage.begin()
            total = len(loader) if isinstance(loader, Sized) else None
            whole = telling.track(loader if read else chain([head], batches), "batches of features", total)
            gather(features, rows, bias, whole, storage, names, images_per_class, telling, images_key)
        facts = dict(storage.facts) | check(*storage.seen, names, check_labels, telling)
        _check_classes(storage, names, settings.k, missing)
        checkpoint = finished()
        vectors, sources = decompose_all(
            settings, rows, storage, checkpoint, seed, memory_limit - memory_limit // 4, names, telling, place
        )
    except BaseException:
        storage.close(keep=True)
        raise
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


def _still_good(
    storage: FeatureStore,
    loader: Iterable[Any],
    batches: Iterable[Any],
    images_key: str | None,
    place: torch.device,
    dtype: torch.dtype,
    telling: LoggingProgress,
) -> tuple[bool, bool]:
    """Return whether kept features are of this classifier and these images, and whether the loader was read for it."""
    if storage.folder is None or not (storage.folder / "features.json").exists():
        return False, False
    if not storage.complete:
        telling.note(
            f"features in {storage.folder} are of another classifier, other classes or settings, or damaged: gathered "
            "again"
        )
        return False, False
    read = images_key is None
    if read and batches is loader:
        # A generator cannot be read twice, so its images go through the classifier again.
        return False, False
    if storage.images == (images_key or digest_of(telling.track(loader, "batches compared"), place, dtype)):
        return True, read
    telling.note(f"images, labels or transforms are not those of the features in {storage.folder}: gathered again")
    return False, read


@torch.no_grad()
def _maps_residual(model: PartPrototypeClassifier, images: Tensor) -> float:
    seen = model.explain(images)
    total = seen.scores.unflatten(1, (-1, model.k)).sum(2) + model.bias
    return float((total - seen.logits).abs().max() / seen.logits.abs().max().clamp(min=1e-30))


def _check_classes(storage: FeatureStore, names: Sequence[str], k: int, missing: str) -> None:
    empty = [label for label in range(len(names)) if not storage.count(label)]
    if len(empty) == len(names):
        raise CellError("the loader gave no images")
    if empty and missing == "refuse":
        more = f" and {len(empty) - 1} other classes have" if len(empty) > 1 else " has"
        raise CellError(
            f"{class_name(empty[0], names)}{more} no image to be decomposed from; add some, or pass missing='keep' "
            "(--missing keep) to leave such classes undivided"
        )
    for label in range(len(names)):
        most = min(storage.channels, storage.count(label) * storage.cells)
        if 0 < most < k:
            raise CellError(
                f"{class_name(label, names)}: k={k} exceeds the rank of its features, at most {most} "
                f"({storage.channels} channels, {storage.count(label)} images x {storage.cells} locations)"
            )


def _check_options(
    classifier: Any,
    loader: Any,
    folder: Path | None,
    class_names: Any,
    memory_limit: Any,
    precision: Any,
    images_per_class: Any,
    missing: Any,
    seed: Any,
) -> None:
    """Refuse options that would fail later with an unclear error, or be silently misread."""
    if not isinstance(classifier, nn.Module):
        raise RequestError(f"the classifier must be a torch.nn.Module, not {type(classifier).__name__}")
    if not isinstance(loader, Iterable):
        raise RequestError(f"the loader must give batches (images, labels), not be a {type(loader).__name__}")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file, no folder")
    if isinstance(class_names, str):
        raise RequestError("class_names must be a list of names, not one word")
    for name, value, known in (
        ("precision", precision, get_args(Precision)),
        ("missing", missing, ("refuse", "keep")),
    ):
        if value not in known:
            raise RequestError(f"{name}={value!r}: write one of {', '.join(known)}")
    for name, value, least in (
        ("memory_limit", memory_limit, 1),
        ("images_per_class", 1 if images_per_class is None else images_per_class, 1),
        ("seed", seed, 0),
    ):
        if not isinstance(value, int) or value < least:
            raise RequestError(f"{name}={value!r}: write a whole number from {least}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _names(given: Sequence[str] | None, loader: Any, classes: int) -> tuple[str, ...]:
    if given is not None:
        if len(given) != classes:
            raise RequestError(f"{len(given)} class_names for a classifier of {classes} classes")
        return tuple(str(name) for name in given)
    names = getattr(getattr(loader, "dataset", None), "classes", None)
    if isinstance(names, list | tuple) and len(names) == classes and all(isinstance(name, str) for name in names):
        return tuple(names)
    return tuple(str(i) for i in range(classes))


def _plain(classifier: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile`` and data-parallel wrappers, which hide its forward pass."""
    while True:
        if hasattr(classifier, "_orig_mod"):
            classifier = classifier._orig_mod  # type: ignore[assignment]
        elif isinstance(classifier, nn.DataParallel | nn.parallel.DistributedDataParallel):
            classifier = classifier.module
        else:
            return classifier


def _settings(config: DecompositionConfig | None, k: int) -> DecompositionConfig:
    if config is not None and not isinstance(config, DecompositionConfig):
        raise RequestError(f"config must be a DecompositionConfig, not {type(config).__name__}")
    try:
        settings = DecompositionConfig(**{**(config.model_dump() if config else {}), "k": k})
    except ValidationError as error:
        raise RequestError(f"{first_problem(error)} (given: {error.errors()[0]['input']})") from None
    if settings.refinement == "none":
        raise RequestError("refinement='none' leaves a rest of each row out, so logits would not be the classifier's")
    return settings
