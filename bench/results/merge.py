"""Results of other machines: finished cells and black boxes, taken over into this home."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from bench.config.spec import CellSpec
from bench.core.errors import BenchError, RequestError
from bench.core.files import replacing
from bench.core.integrity import verify_folder
from bench.core.work_dir import WorkDir
from bench.results.records import AGAIN, read_description, read_history
from bench.results.store import Store

if TYPE_CHECKING:
    from bench.contract import Progress


@dataclass
class Counts:
    """Counts of another home's cells by their outcome."""

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
    """Copy the results that are finished there and not here; each result appears in one step.

    Args:
        source: a ``BENCH_HOME``, or the ``--out`` of another run.
        store: receives the cells.
        home: receives the black boxes.
        progress: receives messages about damaged results.

    Raises:
        RequestError: if there is no such home.
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
            taken = _taken(found, own, lambda name=name: _check(other, name), progress)  # type: ignore[misc]
            counts.taken += taken
            counts.damaged += not taken
    for path in sorted((source / "blackboxes").glob("*")):
        found, own = WorkDir(path), WorkDir(home / "blackboxes" / path.name)
        if found.done and not own.done:
            taken = _taken(found, own, lambda found=found: _check_black_box(found), progress)  # type: ignore[misc]
            counts.black_boxes += taken
            counts.damaged += not taken
    return counts


def _taken(found: WorkDir, own: WorkDir, check: Callable[[], None], progress: Progress) -> bool:
    """Take over a result and return whether it is here now; a damaged one is reported."""
    try:
        check()
    except BenchError as error:
        progress.note(str(error))
        return False
    with own.claim(lambda: progress.note(f"another process works on {own.path}: waiting for it")):
        if own.done:
            return True
        unfinished = own.path / ".gathered"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(found.result, unfinished)
        written = found.path / "cell.json"
        if written.is_file() and not _readable(own.path):
            with replacing(own.path / "cell.json", rivals=True) as draft:
                shutil.copyfile(written, draft)
        unfinished.rename(own.result)
        own.tidy()
    return True


def _readable(cell: Path) -> bool:
    try:
        read_description(cell / "cell.json", cell.name)
    except RequestError:
        return False
    return True


def _check(store: Store, name: str) -> None:
    """Check that a cell is complete: a partial copy must not pass for a result.

    Raises:
        RequestError: naming the file.
    """
    found = store.record(name)
    if found.written is None:
        raise RequestError(store.faults[name])
    CellSpec.of(found.written, store.cell(name).path / "cell.json")
    if found.failure is not None:
        raise RequestError(found.failure["reason"].replace(AGAIN, "; copy it again"))
    _check_digests(store.cell(name))
    if found.written.get("exported"):
        return  # without its fit
    _check_weights(store.cell(name))


def _check_black_box(folder: WorkDir) -> None:
    """Check that its weights and, if it has them, its curves can be read.

    Raises:
        RequestError: naming the file.
    """
    _check_digests(folder)
    _check_weights(folder)
    try:
        read_history(folder.result)
    except RequestError as error:
        raise RequestError(f"{error}; copy it again") from error


def _check_digests(folder: WorkDir) -> None:
    """Check that all files are those that were written, as far as their digests are known.

    Raises:
        RequestError: naming the first that is not.
    """
    try:
        verify_folder(folder.result)
    except RequestError as error:
        raise RequestError(f"{error}; copy it again") from error


def _check_weights(folder: WorkDir) -> None:
    weights = folder.result / "model.safetensors"
    try:
        with safe_open(weights, "pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise RequestError(f"{weights}: {error}; copy it again") from error
