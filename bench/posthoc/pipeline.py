"""Class after class, or as many as fit into memory: features in, prototypes out."""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from bench.contract import CellError, RequestError
from bench.posthoc.checkpoint import Checkpoint
from bench.posthoc.decompose_class import DecompositionConfig, decompose_classes
from bench.posthoc.progress import LoggingProgress

WILD = 1e3
"""Prototypes whose maps are this much larger than their sum cancel each other and explain nothing."""


class FeatureSource(Protocol):
    """Where the features of a class come from: a file, memory, or the backbone itself."""

    @property
    def grid(self) -> tuple[int, int]:
        """H and W of one image."""

    @property
    def channels(self) -> int:
        """D."""

    def count(self, label: int) -> int:
        """How many images of a class there are."""

    def of(self, label: int) -> tuple[Tensor, Tensor]:
        """Features ``(n, cells, D)`` of a class in single precision, and the images' places ``(n,)``."""


def decompose_all(
    settings: DecompositionConfig,
    rows: Tensor,
    source: FeatureSource,
    checkpoint: Checkpoint,
    seed: int,
    memory_limit: int,
    names: Sequence[str],
    telling: LoggingProgress,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Prototypes ``(C, k, D)``, float64, and their strongest images and cells ``(C k, 2)``.

    Nothing of a class depends on which others share its chunk, so the memory limit does not change a bit on a CPU.
    Classes that the checkpoint has are not computed again; a row of a class without images is shared out equally.

    Args:
        settings: of the decomposition.
        rows: of the classifier ``(C, D)``.
        source: of the features.
        checkpoint: keeps finished classes.
        seed: of the starting points.
        memory_limit: bytes that features and their copies may take at a time.
        names: of the classes, for messages.
        telling: told how far it is.
        device: where to compute.
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
        telling.note(f"{C - len(todo)} of {C} classes need no work: decomposed before, or without images")
    began = last = time.perf_counter()
    chunks = _chunks(todo, C, source, memory_limit, names, settings)
    found = _decomposed(chunks, settings, rows, source, seed, names, telling, device)
    for done, (label, part, where, numbers) in enumerate(telling.track(found, "classes decomposed", len(todo)), 1):
        vectors[label], sources[label] = part, where
        # Of classes that are decomposed together the first takes it all: what was spent is in the sum.
        last, before = time.perf_counter(), last
        checkpoint.write(label, {"vectors": part.cpu(), "sources": where}, numbers, last - before)
        rate = done / (last - began)
        telling.rarely(f"{done} of {len(todo)} classes decomposed, {rate:.2f} classes/s", last=done == len(todo))
    return vectors, sources.flatten(0, 1)


def _decomposed(
    chunks: list[list[int]],
    settings: DecompositionConfig,
    rows: Tensor,
    source: FeatureSource,
    seed: int,
    names: Sequence[str],
    telling: LoggingProgress,
    device: torch.device,
) -> Iterator[tuple[int, Tensor, Tensor, dict[str, float]]]:
    """Each class with its prototypes ``(k, D)``, their strongest images and cells ``(k, 2)``, and what was measured."""
    cells = source.grid[0] * source.grid[1]
    widest = max(source.count(label) for label in range(len(rows)))
    for chunk in chunks:
        F, own, positions = _stacked(chunk, widest, source, names, device, settings.factorisation == "nmf")
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            parts, numbers = decompose_classes(settings, F, own, rows[chunk], source.grid, seed, chunk)
            for i, value in enumerate(numbers["cancellation"].tolist()):
                if value > WILD:
                    _tame(settings, F, own, rows, source.grid, seed, chunk, i, parts, numbers)
                    telling.note(
                        f"{class_name(chunk[i], names)}: refined prototypes cancel each other; split by alpha instead"
                    )
        if not bool(torch.isfinite(parts).all()):
            broken = chunk[int((~torch.isfinite(parts)).flatten(1).any(1).nonzero()[0])]
            raise CellError(f"{class_name(broken, names)}: its prototypes are not finite; try another k or seed")
        for i, label in enumerate(chunk):
            # The training cell where each prototype is strongest, as an illustration of it.
            best = (F[i, : own[i]] @ parts[i].to(F.dtype).mT).argmax(0).cpu()
            where = torch.stack([positions[i][best // cells], best % cells], 1)
            yield label, parts[i], where, {name: float(values[i]) for name, values in numbers.items()}


def _tame(
    settings: DecompositionConfig,
    F: Tensor,
    own: Tensor,
    rows: Tensor,
    grid: tuple[int, int],
    seed: int,
    chunk: list[int],
    i: int,
    parts: Tensor,
    numbers: dict[str, Tensor],
) -> None:
    """Split the residual of one class by alpha where the search has run off to prototypes that only cancel.

    The objective of equation 6 does not see how long a part of the residual is. Where the search ends at parts a
    thousand times longer than what they sum to, maps in single precision no longer add up to the logit.
    """
    plain = settings.model_copy(update={"refinement": "naive"})
    again, counted = decompose_classes(
        plain, F[i : i + 1], own[i : i + 1], rows[chunk[i]][None], grid, seed, [chunk[i]]
    )
    if float(counted["cancellation"][0]) < float(numbers["cancellation"][i]):
        parts[i] = again[0]
        for name in numbers:
            if name in counted:
                numbers[name][i] = counted[name][0]


def _stacked(
    chunk: list[int], widest: int, source: FeatureSource, names: Sequence[str], device: torch.device, positive: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Features ``(B, M, D)`` of B classes, rows of each that are its own, and the places of its images.

    M is that of the largest class of all, not of the chunk or of those still to do: sums over padded rows are then the
    same in any company.
    """
    F = torch.zeros(len(chunk), widest * source.grid[0] * source.grid[1], source.channels, device=device)
    own, positions = [], []
    for i, label in enumerate(chunk):
        x, places = source.of(label)
        flat = x.flatten(0, 1)
        if not bool(torch.isfinite(flat).all()):
            raise CellError(f"{class_name(label, names)}: features are not finite")
        usable = flat > 0 if positive else flat != 0
        if not bool(usable.any()):
            below = " or below" if positive else ""
            raise CellError(
                f"{class_name(label, names)}: all its features are zero{below}, there is nothing to factorise"
            )
        F[i, : len(flat)] = flat.to(device)
        own.append(len(flat))
        positions.append(places)
    return F, torch.tensor(own, device=device), positions


def _chunks(
    todo: list[int],
    classes: int,
    source: FeatureSource,
    memory_limit: int,
    names: Sequence[str],
    settings: DecompositionConfig,
) -> list[list[int]]:
    """Classes, all as large as the largest, that fit into the memory limit together."""
    if not todo:
        return []
    cells = source.grid[0] * source.grid[1]

    def need(images: int) -> int:
        rows = images * cells
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
    # SciPy's Nelder-Mead goes class by class; the others would only be computed along.
    together = 1 if settings.refinement == "nelder-mead" else memory_limit // need(count)
    return [todo[start : start + together] for start in range(0, len(todo), together)]


def class_name(label: int, names: Sequence[str]) -> str:
    """A class by number and, where it has one, name."""
    return f"class {label}" + ("" if names[label] == str(label) else f" ({names[label]})")
