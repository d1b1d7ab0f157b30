"""Results to publish: the tables of finished cells, item by item, without their fits and names of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError
from bench.core.integrity import Changed
from bench.results.archive import FILE as ARCHIVE
from bench.results.archive import write_archive
from bench.results.cell_record import CellRecord
from bench.results.result_files import ResultFiles
from bench.results.store import Store

if TYPE_CHECKING:
    from bench.contract import Progress

_OF_A_HOME = ("cells", "invocations", "blackboxes", "prepared", "features", "data", "scale")
_BESIDE = ("README.md", "LICENSE", ".gitattributes", ".git")
# Of one part too: these texts are commands and folders, unlike the prose of pages (bench/report/html/downloads.py).
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

    Of the same suite the folder holds this run alone afterwards; other suites in it stay. A reader sees the former
    content or the new one.

    Args:
        store: contains the cells.
        stamp: of an existing run (:meth:`Store.chosen_run`).
        target: the folder; an existing one must be an export, or empty.
        progress: receives the messages.

    Raises:
        RequestError: if the folder holds something else.
    """
    run, counts = store.invocations()[stamp], Counts()
    if target.resolve() == store.root.resolve():
        raise RequestError(f"{target} is the home itself: name another folder")
    _check_target(target, run["suite"])

    def cells() -> Iterator[tuple[str, dict[str, Any], dict[str, bytes]]]:
        for name in progress.track(run["cells"], "cells"):
            record = store.record(name)
            if record.written is None:
                counts.damaged += 1
                progress.note(store.faults[name])
            elif record.result is None and record.failure is None:
                counts.unfinished += 1
            else:
                counts.failed += record.failure is not None
                counts.cells += 1
                yield name, _published(store, record), _files(store.files(name), progress)

    counts.size = write_archive(target / run["suite"], stamp, nameless(run), cells())
    return counts


def _check_target(target: Path, suite: str) -> None:
    """Refuse a folder with anything that no export writes: a home's cells must not be mixed with published ones.

    Raises:
        RequestError: naming it.
    """
    inside = sorted(target.iterdir()) if target.exists() else []
    homely = [path for path in inside if path.name in _OF_A_HOME and path.name != suite]
    if homely:
        raise RequestError(
            f"{target} is a home of runs, not an export of this version: it has {homely[0].name}, and nothing of it is "
            f"replaced; name an empty folder, or that of an earlier export (`--out {target}` exports it again)"
        )
    alien = [path for path in inside if not (path / ARCHIVE).is_file() and path.name not in (*_BESIDE, suite)]
    if alien:
        raise RequestError(
            f"{target} holds something else, {alien[0].name}: name an empty folder, or that of an earlier export"
        )


def _published(store: Store, record: CellRecord) -> dict[str, Any]:
    """Return description, result and failure without names of this machine."""
    written = record.written
    assert written is not None
    seconds = {"black_box_seconds": store.black_box_seconds(written)} if written.get("black_box_id") else {}
    failure = record.failure and {**nameless(record.failure), "details": ""}
    # The id is the hash of the specification; files are in it by their content.
    description = {**nameless({**written, **seconds}), "spec": written["spec"], "exported": True}
    return {"description": description, "result": nameless(record.result), "failure": failure}


def _files(files: ResultFiles, progress: Progress) -> dict[str, bytes]:
    """Return the files to publish; one that was changed since it was written gets no digest that hides the change."""
    found = {}
    for name in [*files.names("history.json"), *files.names("items/*.csv")]:
        try:
            found[name] = files.read(name)
        except Changed as error:
            progress.note(f"{error}: left out")
    return found


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
