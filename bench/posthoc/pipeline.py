"""Pipeline of a decomposition: classes in chunks that fit into memory, from features to prototypes."""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bench.contract import CellError, RequestError
from bench.posthoc.checkpoint import Checkpoint
from bench.posthoc.decompose_class import DecompositionConfig, decompose_classes
from bench.posthoc.feature_source import FeatureSource
from bench.posthoc.progress import LoggingProgress

# Limit of the cancellation: prototypes whose maps are this much larger than their sum explain nothing.
MAX_CANCELLATION = 1e3


def decompose_all(
    settings: DecompositionConfig,
    rows: Tensor,
    source: FeatureSource,
    checkpoint: Checkpoint,
    seed: int,
    memory_limit: int,
    names: Sequence[str],
    progress: LoggingProgress,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Decompose all classes of a classifier.

    The result of a class does not depend on which others share its chunk, so on a CPU the memory limit does not change
    a bit. Classes in the checkpoint are not computed again; the row of a class without images is split equally. The
    rows of the classifier are ``(C, D)``; the limit is in bytes, of features and their copies.

    Returns:
        Prototypes ``(C, k, D)``, float64, and the image and location at which each is strongest ``(C k, 2)``, -1 for
        a class without images.

    Raises:
        RequestError: if a class does not fit into the memory limit.
        CellError: if features or prototypes of a class are not finite, or its features are all zero.
    """
    C, D = rows.shape
    vectors = (rows.double() / settings.k)[:, None].expand(C, settings.k, D).clone()
    sources = torch.full((C, settings.k, 2), -1, dtype=torch.long)
    todo = []
    for label in range(C):
        part = checkpoint.read(label)
        if part is not None:
            vectors[label], sources[label] = part["vectors"].to(device), part["sources"]
        elif source.count(label):
            todo.append(label)
    if len(todo) < C and todo:
        progress.note(f"{C - len(todo)} of {C} classes need no work: decomposed before, or without images")
    for label in checkpoint.faults:
        progress.note(f"{class_name(label, names)}: what was kept of it is damaged or was altered: decomposed again")
    began = last = time.perf_counter()
    chunks = _chunks(todo, C, source, memory_limit, names, settings)
    results = _decompose_chunks(chunks, settings, rows, source, seed, names, progress, device)
    for done, (label, part, strongest, numbers) in enumerate(
        progress.track(results, "classes decomposed", len(todo)), 1
    ):
        vectors[label], sources[label] = part, strongest
        # The first class of a chunk takes the time of all: only the sum over classes is used.
        last, before = time.perf_counter(), last
        checkpoint.write(label, {"vectors": part.cpu(), "sources": strongest}, numbers, last - before)
        rate = done / (last - began)
        progress.rarely(f"{done} of {len(todo)} classes decomposed, {rate:.2f} classes/s", last=done == len(todo))
    return vectors, sources.flatten(0, 1)


def _decompose_chunks(
    chunks: list[list[int]],
    settings: DecompositionConfig,
    rows: Tensor,
    source: FeatureSource,
    seed: int,
    names: Sequence[str],
    progress: LoggingProgress,
    device: torch.device,
) -> Iterator[tuple[int, Tensor, Tensor, dict[str, float]]]:
    """Yield each class with prototypes ``(k, D)``, their strongest images and locations ``(k, 2)``, and numbers."""
    locations = source.grid[0] * source.grid[1]
    widest = max(source.count(label) for label in range(len(rows)))
    noted = False
    for chunk in chunks:
        F, counts, indices = _stack_features(chunk, widest, source, names, device, settings.factorisation == "nmf")
        if not noted and bool(F.amin() < 0):
            noted = True
            progress.note(_negative(settings.factorisation, F, counts))
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            parts, numbers = decompose_classes(settings, F, counts, rows[chunk], source.grid, seed, chunk)
            for i, value in enumerate(numbers["cancellation"].tolist()):
                if value > MAX_CANCELLATION:
                    _split_by_alpha(settings, F, counts, rows, source.grid, seed, chunk, i, parts, numbers)
                    progress.note(
                        f"{class_name(chunk[i], names)}: refined prototypes cancel each other; split by alpha instead"
                    )
        if not bool(torch.isfinite(parts).all()):
            broken = chunk[int((~torch.isfinite(parts)).flatten(1).any(1).nonzero()[0])]
            raise CellError(f"{class_name(broken, names)}: its prototypes are not finite; try another k or seed")
        # The training location with the largest value of each prototype's map, as an illustration of it.
        best = [(F[i, :n] @ parts[i].to(F.dtype).mT).argmax(0) for i, n in enumerate(counts.tolist())]
        # Copied for the whole chunk, not class by class: each copy waits for the device.
        columns = {name: values.tolist() for name, values in numbers.items()}
        for i, (label, at) in enumerate(zip(chunk, torch.stack(best).cpu(), strict=True)):
            strongest = torch.stack([indices[i][at // locations], at % locations], 1)
            yield label, parts[i], strongest, {name: values[i] for name, values in columns.items()}


def _negative(factorisation: str, F: Tensor, counts: Tensor) -> str:
    """Return a line on how negative features are treated, which networks with swish, GELU or layer norm have."""
    share = 100 * int((F < 0).sum()) / (int(counts.sum()) * F.shape[2])
    treated = {
        "nmf": "count as zero in the factorisation (paper, section 4.3); factorisation=semi or convex keep them",
        "semi": "are kept: prototypes of either sign, weights of zero or more (semi-NMF)",
        "convex": "are kept: prototypes are mixtures of features (convex NMF)",
    }
    return f"{share:.0f} % of the features are negative and {treated[factorisation]}"


def _split_by_alpha(
    settings: DecompositionConfig,
    F: Tensor,
    counts: Tensor,
    rows: Tensor,
    grid: tuple[int, int],
    seed: int,
    chunk: list[int],
    i: int,
    parts: Tensor,
    numbers: dict[str, Tensor],
) -> None:
    """Split the residual of one class by alpha, in place, if the search has ended at prototypes that only cancel."""
    # Norm in equation 6 hides the length of a part of the residual. If the parts are a thousand times longer than
    # their sum, maps in single precision no longer add up to the logit.
    plain = settings.model_copy(update={"refinement": "naive"})
    split, split_numbers = decompose_classes(
        plain, F[i : i + 1], counts[i : i + 1], rows[chunk[i]][None], grid, seed, [chunk[i]]
    )
    if float(split_numbers["cancellation"][0]) < float(numbers["cancellation"][i]):
        parts[i] = split[0]
        for name in numbers:
            if name in split_numbers:
                numbers[name][i] = split_numbers[name][0]


def _stack_features(
    chunk: list[int], widest: int, source: FeatureSource, names: Sequence[str], device: torch.device, positive: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return zero-padded features ``(B, M, D)``, valid rows per class ``(B,)``, and the indices of its images."""
    # M is that of the largest class of all, not of the chunk or of the unfinished ones: sums over padded rows then do
    # not depend on the other classes.
    F = torch.zeros(len(chunk), widest * source.grid[0] * source.grid[1], source.channels, device=device)
    counts, indices = [], []
    for i, label in enumerate(chunk):
        x, index = source.of(label)
        flat = x.flatten(0, 1)
        F[i, : len(flat)] = flat.to(device)
        counts.append(len(flat))
        indices.append(index)
    usable = (F > 0 if positive else F != 0).flatten(1).any(1)
    finite = [bool(fine) for fine in torch.stack([part.isfinite().all() for part in F]).tolist()]
    for label, fine, some in zip(chunk, finite, usable.tolist(), strict=True):
        if not fine:
            raise CellError(f"{class_name(label, names)}: features are not finite")
        if not some:
            below = " or below" if positive else ""
            raise CellError(
                f"{class_name(label, names)}: all its features are zero{below}, there is nothing to factorise"
            )
    return F, torch.tensor(counts, device=device), indices


def _chunks(
    todo: list[int],
    classes: int,
    source: FeatureSource,
    memory_limit: int,
    names: Sequence[str],
    settings: DecompositionConfig,
) -> list[list[int]]:
    """Split the classes into chunks that fit into the memory limit, each class counted as large as the largest."""
    if not todo:
        return []
    locations = source.grid[0] * source.grid[1]

    def need(images: int) -> int:
        rows = images * locations
        # Features in single precision, without negative ones, their reconstruction, and one spare at the checks;
        # convex factors also take the products of all rows with each other, their two signs, and one spare.
        return 4 * 4 * rows * (max(source.channels, 1) + (rows if settings.factorisation == "convex" else 0))

    largest = max(range(classes), key=source.count)
    count = source.count(largest)
    if need(count) > memory_limit:
        fewer = bisect.bisect_right(range(count), memory_limit, key=need) - 1
        raise RequestError(
            f"{class_name(largest, names)}: its {count} images need {need(count) / 2**30:.1f} GiB to be decomposed and "
            f"{memory_limit / 2**30:.1f} GiB of the memory limit are for that; raise the limit, or use at most "
            f"images_per_class={fewer}"
        )
    # SciPy's Nelder-Mead runs class by class; each evaluation would compute the other classes of a chunk too.
    together = 1 if settings.refinement == "nelder-mead" else memory_limit // need(count)
    return [todo[start : start + together] for start in range(0, len(todo), together)]


def class_name(label: int, names: Sequence[str]) -> str:
    """Return a class's number and, if it has one, its name for messages.

    Example:
        >>> class_name(1, ["0", "Laysan Albatross"])
        'class 1 (Laysan Albatross)'
    """
    return f"class {label}" + ("" if names[label] == str(label) else f" ({names[label]})")
