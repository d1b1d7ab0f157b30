"""Results of other machines: finished cells and black boxes, taken over into this home."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bench.contract import BenchError, Progress, RequestError
from bench.specification import CellSpec
from bench.store import Folder, Store


@dataclass
class Counts:
    """What became of the cells of another home."""

    taken: int = 0
    here: int = 0
    unfinished: int = 0
    damaged: int = 0
    black_boxes: int = 0

    def __str__(self) -> str:
        rest = f", {self.damaged} damaged" if self.damaged else ""
        return (
            f"{self.taken} cells and {self.black_boxes} black boxes taken over, {self.here} cells here already, "
            f"{self.unfinished} not finished there{rest}"
        )


def gather(source: Path, store: Store, home: Path, progress: Progress) -> Counts:
    """Copy what is finished there and not here; each result appears in one step.

    Args:
        source: a ``BENCH_HOME``, or what another run had as ``--out``.
        store: where cells go.
        home: where black boxes go.
        progress: told about results that are damaged.

    Raises:
        RequestError: where there is no such home.
    """
    if not (source / "cells").is_dir():
        raise RequestError(f"{source} is no home of results: it has no folder cells")
    other, counts = Store(source), Counts()
    for name in progress.track(other.cells(), f"cells of {source}"):
        found, own = other.cell(name), store.cell(name)
        if not found.done:
            counts.unfinished += 1
        elif own.done:
            counts.here += 1
        else:
            try:
                _take(found, own, lambda name=name: _check(other, name))  # type: ignore[misc]
                counts.taken += 1
            except BenchError as error:
                counts.damaged += 1
                progress.note(str(error))
    for path in sorted((source / "blackboxes").glob("*")):
        found, own = Folder(path), Folder(home / "blackboxes" / path.name)
        if found.done and not own.done:
            _take(found, own, lambda: None)
            counts.black_boxes += 1
    return counts


def _take(found: Folder, own: Folder, check: Callable[[], None]) -> None:
    check()
    with own.claim():
        if own.done:
            return
        unfinished = own.path / ".gathered"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(found.result, unfinished)
        if (found.path / "cell.json").is_file() and not (own.path / "cell.json").is_file():
            shutil.copy(found.path / "cell.json", own.path)
        unfinished.rename(own.result)
        own.tidy()


def _check(store: Store, name: str) -> None:
    """A copy that was not complete must not pass for a result.

    Raises:
        RequestError: naming the file.
    """
    written = store.specification(name)
    try:
        spec = CellSpec.model_validate(written["spec"])
    except (KeyError, ValueError) as error:
        raise RequestError(f"{store.cell(name).path / 'cell.json'} is no cell as this version writes them") from error
    if spec.id != name:
        raise RequestError(f"{store.cell(name).path / 'cell.json'} is of another cell: its content has another id")
    outcome = store.outcome(name) or {}
    missing = set(spec.metrics)
    missing -= {*outcome.get("scores", {}), *outcome.get("not_applicable", {})}
    if missing:
        raise RequestError(f"{store.cell(name).result}: no {', '.join(sorted(missing))}; copy it again")
    if written.get("exported"):
        return  # without its fit
    weights = store.cell(name).result / "model.safetensors"
    try:
        with safe_open(weights, "pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise RequestError(f"{weights}: {error}; copy it again") from error
