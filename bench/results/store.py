"""Store of results on disk: the source of truth, from which tables and the MLflow mirror are made.

A folder that ``export`` wrote has SUITE/cells.json and tables instead: see ``bench/results/archive.py``.

cells/ID/cell.json      the cell's specification, the paths of its inputs, the command that runs it
cells/ID/...            its work and its result: see ``bench/core/work_dir.py``
invocations/STAMP.json  one call of `run`: its suite, its command line, its cells
scale/STAMP.json        one call of `scale`: time and memory of methods, measured without data
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.core import registry
from bench.core.content_digest import State, state_of
from bench.core.errors import RequestError
from bench.core.files import read_json, write_json
from bench.core.work_dir import Status, WorkDir, failed
from bench.results.archive import FILE as ARCHIVE
from bench.results.archive import Archive
from bench.results.cell_record import CellRecord
from bench.results.records import read_description, read_history, read_invocation, read_result
from bench.results.result_files import FolderFiles, ResultFiles
from bench.results.rows import Row, as_dicts, damaged_row, rows_of

__all__ = ["CellRecord", "Row", "Status", "Store", "WorkDir", "as_dicts", "new_stamp", "write_json"]

_STAMP = "%Y%m%d-%H%M%S-%f"
_log = logging.getLogger(__name__)


def new_stamp() -> str:
    """Return the name of a call that begins now; later names sort behind earlier ones unless the clock is set."""
    return _stamp(datetime.datetime.now())


class Store:
    """Cells and invocations under one directory.

    Args:
        root: ``BENCH_HOME``, or the folder of ``--out``.

    Attributes:
        faults: files that could not be read so far, by the cell's id or the record's path in the store: the reason and
            the remedy. Each is logged once as a warning, so that no command leaves it out without a word.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.faults: dict[str, str] = {}
        self._folders: dict[str, WorkDir] = {}
        self._archives: dict[Path, tuple[State, Archive | None]] = {}
        self._once: dict[str, CellRecord] | None = None

    @contextlib.contextmanager
    def read_once(self) -> Iterator[None]:
        """Read each cell once while this lasts: all parts of a report are of one state, and it is made sooner."""
        self._once = {}
        try:
            yield
        finally:
            self._once = None

    def check_writable(self) -> None:
        """Find out before anything is computed whether results can be kept.

        Raises:
            RequestError: if they cannot.
        """
        if self.archives():
            raise RequestError(
                f"{self.root} is an export, which is only read: `python -m bench gather {self.root}` takes its results "
                "over into BENCH_HOME"
            )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as trial:
                trial.write(b"x" * 4096)
        except OSError as error:
            raise RequestError(
                f"{self.root} cannot be written ({error.strerror}); make room and write access there, or name another "
                "folder with --out or BENCH_HOME"
            ) from error

    def cell(self, name: str) -> WorkDir:
        """Return the folder of a cell; one that was exported has none on disk, see :meth:`files`."""
        found = self._folders.get(name)
        if found is None:
            found = self._folders[name] = WorkDir(self.root / "cells" / name, read_result)
        return found

    def archives(self) -> list[Archive]:
        """Return the suites that an export wrote here, the newest run first; :attr:`faults` has those not readable."""
        files = sorted(self.root.glob(f"[!.]*/{ARCHIVE}"))
        found = [archive for archive in map(self._archive, files) if archive is not None]
        return sorted(found, key=lambda archive: archive.stamp, reverse=True)

    def _archive(self, file: Path) -> Archive | None:
        state = state_of(file)
        if file not in self._archives or self._archives[file][0] != state:
            name = f"{file.parent.name}/{file.name}"
            try:
                self._archives[file] = state, Archive(file)
                self.faults.pop(name, None)
            except RequestError as error:
                self._archives[file] = state, None
                self._fault(name, str(error))
        return self._archives[file][1]

    def archived(self, name: str) -> Archive | None:
        """Return the newest archive with a cell; ``None`` if the cell has a folder of its own, or is not here."""
        if (self.cell(name).path / "cell.json").exists():
            return None
        return next((archive for archive in self.archives() if name in archive.cells), None)

    def files(self, name: str) -> ResultFiles:
        """Return the files of a finished cell's result."""
        archive = self.archived(name)
        return FolderFiles(self.cell(name).result) if archive is None else archive.files(name)

    def find(self, prefix: str) -> str:
        """Find the one cell whose id begins with the prefix, which may be the path of its folder.

        Raises:
            RequestError: if there is none, or more than one.
        """
        prefix = Path(prefix).name
        found = [name for name in self.cells() if name.startswith(prefix)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise RequestError(f"no cell {prefix!r} in {self.root}; `python -m bench results` lists them")
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise RequestError(f"{prefix!r} is short for {len(found)} cells: {', '.join(found[:4])}{more}")

    def place(self, cell: Path) -> Path:
        """Return the folder of a cell that is named by its path, or by its id (or a beginning of it) in this store.

        Raises:
            RequestError: if it is neither.
        """
        if cell.parent.name == "cells" and Store(cell.parent.parent).archived(cell.name):
            return cell.resolve()
        return cell.resolve() if cell.is_dir() else self.cell(self.find(str(cell))).path.resolve()

    def cells(self) -> list[str]:
        """Return the ids of all cells, finished or not."""
        folder = self.root / "cells"
        inside = folder.iterdir() if folder.is_dir() else ()
        names = {path.name for path in inside if (path / "cell.json").is_file()}
        return sorted(names.union(*(archive.cells for archive in self.archives())))

    def record(self, name: str) -> CellRecord:
        """Return all that is stored of a cell: damage becomes its failure, and never an error."""
        if self._once is None:
            return self._record(name)
        if name not in self._once:
            self._once[name] = self._record(name)
        return self._once[name]

    def _record(self, name: str) -> CellRecord:
        folder, written = self.cell(name), self._written(name)
        if written is None:
            return CellRecord(name, None, None, failed(self.faults[name]))
        if (archive := self.archived(name)) is not None:
            return archive.record(name)
        if not folder.done:
            return CellRecord(name, written, None, folder.failure)
        try:
            return CellRecord(name, written, read_result(folder.result, written["spec"]["metrics"]), None)
        except RequestError as error:
            return CellRecord(name, written, None, failed(str(error)))

    def records(self, names: Iterable[str]) -> list[CellRecord]:
        """Return the cells whose descriptions are whole; :attr:`faults` has the reason of each other one."""
        records = map(self.record, names)
        return [record for record in records if record.written is not None]

    def specification(self, name: str) -> dict[str, Any]:
        """Return the specification of a cell: the content of its ``cell.json``.

        Raises:
            RequestError: if that is damaged or does not match its id, with the command that rewrites it.
        """
        if (archive := self.archived(name)) is not None:
            return archive.description(name)
        try:
            return read_description(self.cell(name).path / "cell.json", name)
        except RequestError as error:
            runs = [content["command"] for content in self.invocations().values() if name in content["cells"]]
            again = f"`{runs[-1]}`" if runs else "the `run` that asked for it"
            raise RequestError(f"{error}: {again} writes it anew, and its result stays") from error

    def written(self, name: str) -> dict[str, Any] | None:
        """Return the same as :meth:`specification`; ``None`` if it is missing or cannot be read."""
        there = (self.cell(name).path / "cell.json").exists() or self.archived(name) is not None
        return self._written(name) if there else None

    def outcome(self, name: str) -> dict[str, Any] | None:
        """Return the content of its ``result.json``; ``None`` if unfinished, or if that or the cell is damaged."""
        return self.record(name).result

    def _written(self, name: str) -> dict[str, Any] | None:
        """Return the content of ``cell.json``; its damage, if any, is added to the faults."""
        try:
            written = self.specification(name)
        except RequestError as error:
            self._fault(name, str(error))
            return None
        self.faults.pop(name, None)  # rewritten since
        return written

    def _fault(self, name: str, reason: str) -> None:
        if name not in self.faults:
            self.faults[name] = reason
            _log.warning("warning: %s", reason)

    def record_invocation(self, stamp: str, content: Mapping[str, Any]) -> None:
        """Record one call of ``run``; nothing can remake the file: it has to outlive a power cut."""
        write_json(self.root / "invocations" / f"{stamp}.json", dict(content), flushed=True)

    def new_invocation(self, content: Mapping[str, Any]) -> str:
        """Record one call of ``run`` under a stamp after all others, even if the clock was set back."""
        with WorkDir(self.root / "invocations").claim():
            now = new_stamp()
            last = max((file.stem for file in self._files("invocations") if _is_stamp(file.stem)), default="")
            if now <= last:
                now = _stamp(datetime.datetime.strptime(last, _STAMP) + datetime.timedelta(milliseconds=1))
            self.record_invocation(now, content)
        return now

    def invocations(self) -> dict[str, dict[str, Any]]:
        """Return all calls of ``run`` whose records can be read, oldest first: stamp -> content."""
        found = {archive.stamp: archive.run for archive in self.archives()}
        for file in self._files("invocations"):
            try:
                found[file.stem] = read_invocation(file)
            except RequestError as error:
                self._fault(f"invocations/{file.name}", _to_delete(error))
        return dict(sorted(found.items()))

    def record_scale(self, stamp: str, content: Mapping[str, Any]) -> None:
        """Record the measurements of one call of ``scale``."""
        write_json(self.root / "scale" / f"{stamp}.json", dict(content))

    def scales(self) -> dict[str, dict[str, Any]]:
        """Return all calls of ``scale``, oldest first: stamp -> measurements."""
        found = {}
        for file in self._files("scale"):
            try:
                found[file.stem] = read_json(file)
            except RequestError as error:
                raise RequestError(_to_delete(error)) from error
        return found

    def _files(self, kind: str) -> list[Path]:
        return sorted((self.root / kind).glob("[!.]*.json"))

    def chosen_run(self, stamp: str | None = None, suite: str | None = None) -> str:
        """Choose a run's stamp: the given one, or that of the newest run of a suite, or of all.

        Raises:
            RequestError: if there is none.
        """
        known = self.invocations()
        stamp = stamp or next((one for one in reversed(known) if suite in (None, known[one]["suite"])), None)
        if stamp is not None and stamp in known:
            if suite not in (None, known[stamp]["suite"]):
                raise RequestError(f"run {stamp} is of suite {known[stamp]['suite']!r}, not of {suite!r}")
            return stamp
        damaged = self._damaged_records()
        if f"invocations/{stamp}.json" in damaged or (damaged and not known):
            raise RequestError(damaged.get(f"invocations/{stamp}.json", next(iter(damaged.values()))))
        if not known:
            raise RequestError(
                f"nothing has been run yet in {self.root}: python -m bench run --methods ours,protopnet --datasets demo"
            )
        if stamp is None:
            suites = sorted({content["suite"] for content in known.values()})
            close = registry.nearest(str(suite), suites)
            there = f"here are results of: {', '.join(suites)}"
            hint = f"{close} T{there}" if "did you mean" in close else f"; t{there}"
            raise RequestError(f"suite {suite!r} has not been run yet{hint}")
        raise RequestError(f"no run {stamp!r} in {self.root}; the newest is {list(known)[-1]!r}")

    def black_box_seconds(self, written: Mapping[str, Any]) -> float | None:
        """Sum the training time of a cell's black box over its epochs, as other cells only know the time of finding it.

        Args:
            written: its ``cell.json``, which contains the time if the cell was exported.

        Returns:
            Seconds: 0 if it starts from none, ``None`` if that is not on record.

        Raises:
            RequestError: if it is on record and cannot be read.
        """
        name = written.get("black_box_id")
        if name is None:
            return 0.0
        place = self.root / "blackboxes" / name / "result"
        if not (place / "history.json").is_file():
            return written.get("black_box_seconds")
        rows = read_history(place)
        try:
            return float(sum(epoch["seconds"] for epoch in rows))
        except (TypeError, KeyError) as error:
            raise RequestError(
                f"{place / 'history.json'} cannot be read (an epoch without its seconds); train that black box anew"
            ) from error

    def rows(self, cells: list[str] | None = None, suite: str | None = None) -> list[Row]:
        """Return one row per cell and metric, of the given cells or of all, in their order."""
        suites: dict[str, str] = {}
        for content in self.invocations().values():
            for name in content["cells"]:
                if suite in (None, content["suite"]):
                    suites[name] = content["suite"]
        chosen = self.cells() if cells is None else cells
        if suite is not None:
            chosen = [name for name in chosen if name in suites]
        rows = [row for name in chosen for row in rows_of(self.record(name), suites.get(name, ""))]
        if cells is None:
            rows += [damaged_row(reason) for reason in self._damaged_records().values()]
        return rows

    def _damaged_records(self) -> dict[str, str]:
        """Return the faults of records of calls and of exported suites; ids of cells have no slash."""
        return {name: reason for name, reason in self.faults.items() if "/" in name}


def _to_delete(error: RequestError) -> str:
    return f"{error}: delete that file, the record of one call; its cells and results stay"


def _is_stamp(name: str) -> bool:
    try:
        return bool(re.fullmatch(r"\d{8}-\d{6}-\d{3}", name) and datetime.datetime.strptime(name, _STAMP))
    except ValueError:
        return False


def _stamp(when: datetime.datetime) -> str:
    return when.strftime(_STAMP)[:-3]
