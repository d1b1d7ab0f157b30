"""Results of other machines: finished cells and black boxes, taken over into this home."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from bench.config.spec import CellSpec
from bench.core.errors import BenchError, RequestError
from bench.core.files import replacing
from bench.core.integrity import verify_folder
from bench.core.work_dir import WorkDir
from bench.results.records import AGAIN, read_description, read_history
from bench.results.store import Store, write_json

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
    other, counts = Store(source), Counts()
    if not (source / "cells").is_dir() and not other.archives():
        damaged = "; ".join(other.faults.values()) or "it has no folder cells, and no suite that `export` wrote"
        raise RequestError(f"{source} is no home of results: {damaged}")
    if store.archives():
        store.check_writable()
    for name in progress.track(other.cells(), f"cells of {source}"):
        own, archive = store.cell(name), other.archived(name)
        if (archive is None and not other.cell(name).done) or (archive and archive.cells[name]["result"] is None):
            counts.unfinished += 1
        elif own.done:
            counts.here += 1
        else:
            check, copy = partial(_check, other, name), _copying(other.cell(name))
            if archive is not None:
                copy = (partial(archive.unpack, name), partial(_describe, archive.description(name)))
            taken = _taken(own, check, *copy, progress)
            counts.taken += taken
            counts.damaged += not taken
    for path in sorted((source / "blackboxes").glob("*")):
        found, own = WorkDir(path), WorkDir(home / "blackboxes" / path.name)
        if found.done and not own.done:
            taken = _taken(own, partial(_check_black_box, found), *_copying(found), progress)
            counts.black_boxes += taken
            counts.damaged += not taken
    return counts


def _taken(
    own: WorkDir,
    check: Callable[[], object],
    write: Callable[[Path], object],
    describe: Callable[[Path], object] | None,
    progress: Progress,
) -> bool:
    """Take over a result and return whether it is here now; a damaged one is reported.

    Args:
        own: directory of the cell or black box here.
        check: raises :class:`BenchError` if the result there is damaged.
        write: makes the folder of the result.
        describe: writes the ``cell.json``, if there is one.
        progress: receives the messages.
    """
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
        write(unfinished)
        if describe is not None and not _readable(own.path):
            with replacing(own.path / "cell.json", rivals=True) as draft:
                describe(draft)
        unfinished.rename(own.result)
        own.tidy()
    return True


def _copying(found: WorkDir) -> tuple[Callable[[Path], object], Callable[[Path], object] | None]:
    """Return the functions that copy a folder's result and its description."""
    written = found.path / "cell.json"
    return partial(shutil.copytree, found.result), partial(shutil.copyfile, written) if written.is_file() else None


def _describe(content: dict[str, Any], file: Path) -> None:
    write_json(file, content)


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
    archive = store.archived(name)
    if archive is None:
        with _advised():
            verify_folder(store.cell(name).result)
    else:
        archive.verify()
    if not found.written.get("exported"):  # without its fit
        with _advised():
            _check_weights(store.cell(name))


def _check_black_box(folder: WorkDir) -> None:
    """Check that its weights and, if it has them, its curves can be read.

    Raises:
        RequestError: naming the file.
    """
    with _advised():
        verify_folder(folder.result)
        _check_weights(folder)
        read_history(folder.result)


@contextlib.contextmanager
def _advised() -> Iterator[None]:
    """Add the advice to copy a damaged file again."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{error}; copy it again") from error


def _check_weights(folder: WorkDir) -> None:
    weights = folder.result / "model.safetensors"
    try:
        with safe_open(weights, "pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise RequestError(f"{weights}: {error}") from error
