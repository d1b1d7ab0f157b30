"""Results to publish: the tables of finished cells, item by item, without their fits and names of this machine."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError
from bench.core.integrity import FILE as DIGESTS
from bench.core.integrity import Changed, digests_of, read_verified
from bench.results.store import Store, WorkDir, write_json

if TYPE_CHECKING:
    from bench.contract import Progress

_PATH = re.compile(r"(?<![\w./-])(?:/[\w.@+-]+)+/?")


@dataclass
class Counts:
    """Counts of a run's cells by their outcome."""

    cells: int = 0
    failed: int = 0
    damaged: int = 0
    unfinished: int = 0
    size: int = 0

    def __str__(self) -> str:
        failed = f" ({self.failed} of them failed)" if self.failed else ""
        damaged = f"{self.damaged} damaged and left out, " if self.damaged else ""
        left_out = f"{damaged}{self.unfinished} not finished and left out"
        return f"{self.cells} cells{failed}, {left_out}, {self.size / 2**20:.1f} MiB"


def export(store: Store, stamp: str, target: Path, progress: Progress) -> Counts:
    """Write the results of a run's cells into a folder that every command reads as a home, with ``--out``.

    Of the same suite the folder holds this run alone afterwards; runs of other suites in it stay.

    Args:
        store: contains the cells.
        stamp: of an existing run (:meth:`Store.chosen_run`).
        target: the folder; an existing one must be an export, or empty.
        progress: receives the messages.

    Raises:
        RequestError: if the folder holds something else.
    """
    run = store.invocations()[stamp]
    if target.resolve() == store.root.resolve():
        raise RequestError(f"{target} is the home itself: name another folder")
    counts, other, names = Counts(), Store(target), []
    _check_target(other)
    for name in progress.track(run["cells"], "cells"):
        found, record = store.cell(name), store.record(name)
        written, failure = record.written, record.failure
        if written is None:
            counts.damaged += 1
            progress.note(store.faults[name])
            continue
        if record.result is None and failure is None:
            counts.unfinished += 1
            continue
        counts.failed += failure is not None
        if written.get("black_box_id"):
            written = {**written, "black_box_seconds": store.black_box_seconds(written)}
        counts.size += _write(found, other.cell(name), written, record.result, failure, progress)
        names.append(name)
    counts.cells = len(names)
    for earlier, content in other.invocations().items():
        if content["suite"] == run["suite"]:
            (target / "invocations" / f"{earlier}.json").unlink()
    other.record_invocation(stamp, nameless({**run, "cells": names}))
    wanted = {name for content in other.invocations().values() for name in content["cells"]}
    for name in set(other.cells()) - wanted:
        if _published(other, name):
            shutil.rmtree(other.cell(name).path)
    return counts


def _check_target(other: Store) -> None:
    """Refuse a home: it has the same folders as an export, and its trained cells must not be replaced or deleted.

    Raises:
        RequestError: if the folder holds anything that no export writes.
    """
    target = other.root
    if not target.exists() or not any(target.iterdir()):
        return
    if not (target / "invocations").is_dir():
        raise RequestError(f"{target} holds something else: name an empty folder, or that of an earlier export")
    alien = [target / name for name in ("blackboxes", "prepared") if (target / name).is_dir()]
    alien += [path for path in (target / "cells").glob("[!.]*") if not _published(other, path.name)]
    if alien:
        raise RequestError(
            f"{target} is a home of runs, not an export: {alien[0]} was computed there, and nothing of it is deleted; "
            "name an empty folder, or that of an earlier export"
        )


def _published(other: Store, name: str) -> bool:
    """Return whether an export wrote the cell: it is marked so, and has neither a fit nor work in progress."""
    folder = other.cell(name)
    if folder.work.exists() or (folder.result / "model.safetensors").exists():
        return False
    # An export that was killed while it replaced a cell may leave it without its description.
    return not (folder.path / "cell.json").exists() or bool((other.written(name) or {}).get("exported"))


def _write(
    found: WorkDir,
    own: WorkDir,
    written: dict[str, Any],
    result: dict[str, Any] | None,
    failure: dict[str, Any] | None,
    progress: Progress,
) -> int:
    """Write one cell and return its size in bytes."""
    shutil.rmtree(own.path, ignore_errors=True)
    # The id is the hash of the specification; files are in it by their content.
    write_json(own.path / "cell.json", {**nameless(written), "spec": written["spec"], "exported": True})
    if result is None:
        write_json(own.path / "failure.json", nameless({**(failure or {}), "details": ""}))
    else:
        tables = sorted(file.name for file in (found.result / "items").glob("*.csv"))
        for name in ("history.json", *(f"items/{table}" for table in tables)):
            _copy(found.result, own.result, name, progress)
        write_json(own.result / "result.json", nameless(result))
        write_json(own.result / DIGESTS, digests_of(own.result))
    return sum(file.stat().st_size for file in own.path.rglob("*") if file.is_file())


def _copy(source: Path, target: Path, name: str, progress: Progress) -> None:
    """Copy a file as it was written; one that was changed since gets no digest that hides the change."""
    try:
        content = read_verified(source, name)
    except FileNotFoundError:
        return
    except Changed as error:
        progress.note(f"{error}: left out")
        return
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    (target / name).write_bytes(content)


def nameless(content: Any) -> Any:
    """Replace every absolute path in JSON content by its last part.

    Example:
        >>> nameless({"command": "BENCH_HOME=/scratch/x python -m bench cell /scratch/x/cells/1f", "root": "/a b/c"})
        {'command': 'BENCH_HOME=x python -m bench cell 1f', 'root': 'c'}
    """
    if isinstance(content, dict):
        return {key: nameless(value) for key, value in content.items()}
    if isinstance(content, list):
        return [nameless(value) for value in content]
    if not isinstance(content, str):
        return content
    if content.startswith("/"):
        return Path(content).name
    return _PATH.sub(lambda path: Path(path[0]).name, content)
