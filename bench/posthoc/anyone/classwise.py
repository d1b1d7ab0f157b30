"""One class, or as many as fit into memory, after the other: features in, prototypes out."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.contract import CellError, RequestError
from bench.posthoc.anyone.checkpoint import Checkpoint
from bench.posthoc.anyone.gathering import Telling
from bench.posthoc.anyone.storage import Storage
from bench.posthoc.decomposition import DecompositionConfig, decompose_classes

_WILD = 1e3
"""Prototypes whose maps are this much larger than their sum cancel each other and explain nothing."""


def decompose_all(
    settings: DecompositionConfig,
    rows: Tensor,
    storage: Storage,
    checkpoint: Checkpoint,
    seed: int,
    memory_limit: int,
    names: Sequence[str],
    telling: Telling,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Prototypes ``(C, k, D)`` and their strongest images and cells ``(C k, 2)``."""
    C, D = rows.shape
    vectors = (rows / settings.k)[:, None].expand(C, settings.k, D).clone()
    sources = torch.full((C, settings.k, 2), -1, dtype=torch.long)
    todo = []
    for label in range(C):
        part = checkpoint.read(label)
        if part is not None:
            vectors[label], sources[label] = part["vectors"].to(device), part["sources"]
        elif storage.count(label):
            todo.append(label)
    if len(todo) < C and todo:
        telling.note(f"{C - len(todo)} of {C} classes need no work: decomposed before, or without images")
    began, done = time.perf_counter(), 0
    for chunk in telling.track(_chunks(todo, storage, memory_limit, names, settings), "chunks of classes decomposed"):
        F, own, positions = _stacked(chunk, storage, names, device, settings.factorisation == "nmf")
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            parts, numbers = decompose_classes(settings, F, own, rows[chunk], storage.cells, seed, chunk)
            wild = [i for i, value in enumerate(numbers["cancellation"].tolist()) if value > _WILD]
            for i in wild:
                _tame(settings, F, own, rows, storage.cells, seed, chunk, i, parts, numbers)
                telling.note(f"{called(chunk[i], names)}: refined prototypes cancel each other; split by alpha instead")
        if not bool(torch.isfinite(parts).all()):
            broken = chunk[int((~torch.isfinite(parts)).flatten(1).any(1).nonzero()[0])]
            raise CellError(f"{called(broken, names)}: its prototypes are not finite; try another k or seed")
        for i, label in enumerate(chunk):
            best = (F[i, : own[i]] @ parts[i].to(F.dtype).mT).argmax(0).cpu()
            source = torch.stack([positions[i][best // storage.cells], best % storage.cells], 1)
            vectors[label], sources[label] = parts[i], source
            measured = {name: float(values[i]) for name, values in numbers.items() if values.numel() == len(chunk)}
            checkpoint.write(label, {"vectors": parts[i].cpu(), "sources": source}, measured)
        done += len(chunk)
        rate = done / (time.perf_counter() - began)
        telling.rarely(f"{done} of {len(todo)} classes decomposed, {rate:.2f} classes/s", last=done == len(todo))
    return vectors, sources.flatten(0, 1)


def _tame(
    settings: DecompositionConfig,
    F: Tensor,
    own: Tensor,
    rows: Tensor,
    cells: int,
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
        plain, F[i : i + 1], own[i : i + 1], rows[chunk[i]][None], cells, seed, [chunk[i]]
    )
    if float(counted["cancellation"][0]) < float(numbers["cancellation"][i]):
        parts[i] = again[0]
        for name in numbers:
            if name in counted:
                numbers[name][i] = counted[name][0]


def _stacked(
    chunk: list[int], storage: Storage, names: Sequence[str], device: torch.device, positive: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Features ``(B, M, D)`` of B classes, rows of each that are its own, and the places of its images."""
    M = max(storage.count(label) for label in chunk) * storage.cells
    F = torch.zeros(len(chunk), M, storage.channels, device=device)
    own, positions = [], []
    for i, label in enumerate(chunk):
        x, places = storage.of(label)
        flat = x.flatten(0, 1)
        usable = flat > 0 if positive else flat != 0
        if not bool(usable.any()):
            below = " or below" if positive else ""
            raise CellError(f"{called(label, names)}: all its features are zero{below}, there is nothing to factorise")
        F[i, : len(flat)] = flat.to(device)
        own.append(len(flat))
        positions.append(places)
    return F, torch.tensor(own, device=device), positions


def _chunks(
    todo: list[int], storage: Storage, memory_limit: int, names: Sequence[str], settings: DecompositionConfig
) -> list[list[int]]:
    """Classes whose features fit into the memory limit together."""
    chunks: list[list[int]] = []
    # Features in single precision, without negative ones, their reconstruction, and one spare at the checks.
    each = 4 * 4 * storage.cells * max(storage.channels, 1)
    widest = 0
    for label in todo:
        count = storage.count(label)
        if count * each > memory_limit:
            raise RequestError(
                f"{called(label, names)}: its {count} images need {count * each / 2**30:.1f} GiB to be decomposed and "
                f"{memory_limit / 2**30:.1f} GiB of the memory limit are for that; raise memory_limit, or use at most "
                f"images_per_class={memory_limit // each}"
            )
        widest = max(widest, count)
        # SciPy's Nelder-Mead goes class by class; the others would only be computed along.
        alone = settings.refinement == "nelder-mead"
        if not chunks or alone or widest * each * (len(chunks[-1]) + 1) > memory_limit:
            chunks.append([])
            widest = count
        chunks[-1].append(label)
    return chunks


def called(label: int, names: Sequence[str]) -> str:
    """A class by number and, where it has one, name."""
    return f"class {label}" + ("" if names[label] == str(label) else f" ({names[label]})")
