"""Cache of computed intervals beside the store's work, keyed by everything from which they follow.

Making them imports torch and pandas and takes tens of milliseconds a cell; a store of thousands of cells is read often.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from bench.core.errors import RequestError
from bench.core.files import read_json, write_json
from bench.core.paths import home
from bench.results.cell_record import CellRecord
from bench.results.stats.contest import Contest
from bench.results.stats.declarations import code_of_intervals, is_ours
from bench.results.store import Row, Store


class IntervalCache:
    """Rows with intervals by cell, in ``BENCH_HOME/intervals``; nothing is kept if there is no such home.

    An entry counts only while the code that makes intervals, the cell's specification, and the size, times and inode
    of its result and of each table are those from which it was made.

    Args:
        store: contains the cells.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = home() / "intervals" if home().is_dir() else None

    def read(self, rows: Sequence[Row]) -> list[Row] | None:
        """Return the rows of one cell with their intervals, or ``None`` if they have to be computed."""
        file = self._file(rows)
        if file is None or not file.is_file():
            return None
        try:
            kept = read_json(file)
            if kept["key"] != self._key(rows[0].cell):
                return None
            found = []
            for row in rows:
                value, low, high, reason = kept["rows"][row.metric]
                if value != row.value:
                    return None
                found.append(replace(row, low=low, high=high, reason=reason))
        except (RequestError, KeyError, TypeError, ValueError):
            return None  # a damaged entry is made again
        return found

    def write(self, rows: Sequence[Row]) -> None:
        """Keep the rows of one cell, with their intervals."""
        file = self._file(rows)
        if file is None:
            return
        held = {row.metric: [row.value, row.low, row.high, row.reason] for row in rows}
        try:
            write_json(file, {"key": self._key(rows[0].cell), "rows": held})
        except OSError:
            self._folder = None  # a home that is full or read-only: the rows are computed each time

    def _file(self, rows: Sequence[Row]) -> Path | None:
        # A plugin's declaration of its numbers may depend on anything.
        if self._folder is None or not all(is_ours(row.metric) for row in rows):
            return None
        place = hashlib.sha256(str(self._store.cell(rows[0].cell).path.resolve()).encode()).hexdigest()
        return self._folder / place[:2] / f"{place[:16]}.json"

    def _key(self, cell: str) -> str:
        # The id is the digest of the specification, with the metrics in it.
        parts = [code_of_intervals(), cell, *self._store.files(cell).state()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class ContestCache:
    """Comparison kept like the rows of :class:`IntervalCache`: its tests alone take seconds, and torch with them.

    Args:
        store: contains the cells.
        cells: that are compared.
        question: all else from which the comparison follows.
    """

    def __init__(self, store: Store, cells: Sequence[CellRecord], question: Sequence[Any]) -> None:
        metrics = {metric for cell in cells for metric in (*cell.spec["metrics"], *cell.written["not_applicable"])}
        self._file: Path | None = None
        if home().is_dir() and all(map(is_ours, metrics)):
            asked = json.dumps([str(store.root.resolve()), question])
            self._file = home() / "intervals" / "compare" / f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}.json"
            states = [json.dumps([cell.name, cell.result, cell.failure, cell.written["label"]]) for cell in cells]
            states += [text for cell in cells for text in store.files(cell.name).state()]
            parts = [code_of_intervals(), _code_of_comparisons(), asked, *states]
            self._key = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def read(self) -> Contest | None:
        """Return the comparison, or ``None`` if it has to be made."""
        if self._file is None or not self._file.is_file():
            return None
        try:
            kept = read_json(self._file)
            return TypeAdapter(Contest).validate_python(kept["contest"]) if kept["key"] == self._key else None
        except (RequestError, KeyError, ValueError):
            return None  # a damaged entry is made again

    def write(self, contest: Contest) -> None:
        """Keep the comparison."""
        if self._file is not None:
            # A home that is full or read-only, or a number that is none: the comparison is made each time.
            with contextlib.suppress(OSError, ValueError):
                write_json(self._file, {"key": self._key, "contest": asdict(contest)})


@functools.cache
def _code_of_comparisons() -> str:
    files = sorted(Path(__file__).resolve().parents[1].rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
