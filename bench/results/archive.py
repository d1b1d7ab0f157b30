"""Compact form of published results: for each suite a JSON file of its cells and a Parquet file of their tables.

SUITE/cells.json             the run and its cells: specification, result or failure, and the names of their files
SUITE/items-DIGEST.parquet   a row for each cell; a file of items is a list in each of the columns METRIC.TABLE/COLUMN

``cells.json`` ends with its own sha256 and names the Parquet file, whose name and sha256 follow from its bytes: one
rename replaces both.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import RequestError
from bench.core.files import load_json, replacing, unreadable, write_json
from bench.core.integrity import FILE as DIGESTS
from bench.core.integrity import Changed, digests_of, seal_of, sha256_of
from bench.core.score import table_text
from bench.results.cell_record import CellRecord
from bench.results.records import check_archived, check_description
from bench.results.result_files import matching, parse_table

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "cells.json"
# Raised when earlier versions of this program could not read the files.
FORMAT = 1
_REMEDY = "take that folder from its source again, or `export` the suite anew"
# Measured on two studies: level 19 is a tenth smaller than 9 and takes two seconds for 30 MB of text.
_LEVEL = 19
# Ends of the names of columns that hold positions in a split or in a table of prototypes.
_RISING = ("/index", "/prototype", "/class", "/draw")
# A reader of one cell decodes the cells of its group: small enough for memory, large enough to compress well.
_CELLS_PER_GROUP = 32


class Archive:
    """Published cells of one suite.

    Args:
        file: its ``cells.json``.

    Attributes:
        stamp: of the run.
        run: its record, as in ``invocations/STAMP.json``.
        cells: for each id its ``description``, ``result`` or ``failure``, and ``files``: name -> column.

    Raises:
        RequestError: if the file cannot be read or was changed, with the remedy.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            content = load_json(file, file.read_bytes())
            seal = content.pop("sha256", None) if isinstance(content, dict) else None
            if seal is None or seal != seal_of(content):
                raise Changed(f"{file} was changed after it was written")
            if content["format"] != FORMAT:
                raise RequestError(f"{file} is of a newer version of this program (format {content['format']})")
            check_archived(file, content)
        except OSError as error:
            raise RequestError(f"{unreadable(file, error)}: {_REMEDY}") from error
        except RequestError as error:
            raise type(error)(f"{error}: {_REMEDY}") from error
        self.stamp: str = content["stamp"]
        self.run: dict[str, Any] = content["run"]
        self.cells: dict[str, dict[str, Any]] = content["cells"]
        self.tables = file.with_name(content["tables"])
        self._digest: str = content["tables_sha256"]
        self._rows = {name: number for number, name in enumerate(self.cells)}

    def description(self, name: str) -> dict[str, Any]:
        """Return the description of a cell.

        Raises:
            RequestError: if its specification has another id.
        """
        try:
            return check_description(self.file, self.cells[name]["description"], name)
        except RequestError as error:
            raise type(error)(f"{error}: {_REMEDY}") from error

    def record(self, name: str) -> CellRecord:
        """Return all that is known of a cell."""
        cell = self.cells[name]
        return CellRecord(name, self.description(name), cell["result"], cell["failure"])

    def files(self, name: str) -> ArchivedFiles:
        """Return the files of a cell."""
        return ArchivedFiles(self, name)

    def unpack(self, name: str, folder: Path) -> None:
        """Write a finished cell's result as a store has it.

        Raises:
            Changed: if the tables are not those that were written.
        """
        files = self.files(name)
        for file in self.cells[name]["files"]:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(files.read(file))
        write_json(folder / "result.json", self.cells[name]["result"])
        write_json(folder / DIGESTS, digests_of(folder))

    def value(self, cell: str, column: str) -> Any:
        """Return the array, or the text, of a cell in a column."""
        group, row = divmod(self._rows[cell], _CELLS_PER_GROUP)
        held = self._column(group, column)[row]
        return held.as_py() if held.type == "string" else held.values.to_numpy(zero_copy_only=False)

    def verify(self) -> None:
        """Compare the tables with their digest.

        Raises:
            Changed: if they are missing, or not those that were written.
        """
        _ = self._parquet

    @functools.cached_property
    def columns(self) -> dict[str, list[str]]:
        """Names of the columns of each table, in their order; a text has none."""
        found: dict[str, list[str]] = {}
        for name in self._parquet.schema_arrow.names:
            table, slash, column = name.partition("/")
            found.setdefault(table, []).extend([column] * bool(slash))
        return found

    @functools.cached_property
    def _parquet(self) -> Any:
        import pyarrow.parquet as pq

        try:
            content = self.tables.read_bytes()
            if sha256_of(self.tables) != self._digest:
                raise Changed(f"{self.tables} was changed after it was written")
            return pq.ParquetFile(io.BytesIO(content))
        except OSError as error:
            # No FileNotFoundError: a single table that is missing is nothing unusual, all of them are damage.
            raise Changed(unreadable(self.tables, error)) from error

    @functools.lru_cache(maxsize=256)  # noqa: B019 (an archive lives as long as its store)
    def _column(self, group: int, column: str) -> Any:
        return self._parquet.read_row_group(group, [column]).column(column)


class ArchivedFiles:
    """Files of one cell of an archive; see :class:`bench.results.result_files.ResultFiles`."""

    remedy = _REMEDY

    def __init__(self, archive: Archive, cell: str) -> None:
        self._archive, self._cell = archive, cell
        self._columns: dict[str, str] = archive.cells[cell]["files"]

    def path(self, name: str) -> Path:
        """Return the place of a file."""
        return self._archive.tables / self._cell / name

    def names(self, pattern: str) -> list[str]:
        """Return the names that fit a pattern."""
        return matching(self._columns, pattern)

    def read(self, name: str) -> bytes:
        """Return the verified bytes of a file."""
        return self._text(name) if self._is_text(name) else table_text(self.table(name)).encode()

    def table(self, name: str) -> dict[str, Any]:
        """Return the columns of a table."""
        if self._is_text(name):
            return parse_table(self._text(name))
        table = self._columns[name]
        return {column: self._archive.value(self._cell, f"{table}/{column}") for column in self._archive.columns[table]}

    def state(self) -> list[str]:
        """Return what changes with the files."""
        return [f"{name} {self._archive.tables.name}" for name in (self._cell, *self._columns)]

    def _is_text(self, name: str) -> bool:
        if name not in self._columns:
            raise FileNotFoundError(2, "No such file", str(self.path(name)))
        try:
            return not self._archive.columns[self._columns[name]]
        except KeyError as error:
            raise Changed(f"{self._archive.tables} has no table {error}") from error

    def _text(self, name: str) -> bytes:
        return str(self._archive.value(self._cell, self._columns[name])).encode()


def _leaves(schema: Any, pa: Any) -> list[tuple[str, str]]:
    """Return the name of each column, and that of its values as Parquet has it."""
    return [(name, f"{name}.list.element" if pa.types.is_list(kind) else name)
            for name, kind in zip(schema.names, schema.types, strict=True)]  # fmt: skip


def _encodings(schema: Any, pa: Any) -> dict[str, str]:
    """Return the encoding of each column that takes less space than as a dictionary of its values."""
    found = {}
    for name, kind in zip(schema.names, schema.types, strict=True):
        if not pa.types.is_list(kind):
            continue
        if pa.types.is_floating(kind.value_type):
            # Numbers of one size have like bytes at like places: with them side by side the file is 8 % smaller.
            found[name] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_integer(kind.value_type) and name.endswith(_RISING):
            # Positions rise from row to row: their differences are 1 or 0 nearly everywhere (another 8 %).
            found[name] = "DELTA_BINARY_PACKED"
    return found


def write_archive(
    folder: Path, stamp: str, run: Mapping[str, Any], cells: Iterable[tuple[str, dict[str, Any], dict[str, bytes]]]
) -> int:
    """Write a run's cells, in one step in place of those that the folder holds; return the bytes of both files.

    Args:
        folder: of the suite.
        stamp: of the run.
        run: its record, in which the ids are replaced by those of the cells.
        cells: id, ``description`` with ``result`` or ``failure``, and the content of its files by name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    builder = _Columns()
    known = {name: {**facts, "files": builder.add(files)} for name, facts, files in cells}
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / ".items.unfinished"
    table = builder.table(list(known), pa)
    encodings = _encodings(table.schema, pa)
    leaves = _leaves(table.schema, pa)
    pq.write_table(
        table, draft, compression="zstd", compression_level=_LEVEL, row_group_size=_CELLS_PER_GROUP,
        use_dictionary=[leaf for name, leaf in leaves if name not in encodings],
        column_encoding={leaf: encodings[name] for name, leaf in leaves if name in encodings},
    )  # fmt: skip
    digest = sha256_of(draft)
    tables = draft.replace(folder / f"items-{digest[:12]}.parquet")
    content = {
        "format": FORMAT,
        "stamp": stamp,
        "run": {**run, "cells": list(known)},
        "tables": tables.name,
        "tables_sha256": digest,
        "cells": known,
    }
    # A line for each cell: version control shows which have changed.
    lines = ",\n".join(f"{json.dumps(name)}: {_line(cell)}" for name, cell in known.items())
    head = _line({key: value for key, value in content.items() if key != "cells"})
    with replacing(folder / FILE) as unfinished:
        unfinished.write_text(f'{head[:-1]}, "cells": {{\n{lines}\n}}, "sha256": "{seal_of(content)}"}}\n')
    for leftover in folder.glob("items-*.parquet"):
        if leftover != tables:
            leftover.unlink()
    return sum(file.stat().st_size for file in (tables, folder / FILE))


def _line(content: Any) -> str:
    return json.dumps(content, sort_keys=True, allow_nan=False)


class _Columns:
    """Files of cells as columns: tables of numbers as lists, all else as text.

    Two tables of one name with other columns or kinds of numbers are two tables here: no value changes its kind.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, ...], str] = {}
        self._rows: list[dict[str, Any]] = []

    def add(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """Add the files of the next cell and return the table, or column of text, of each."""
        row: dict[str, Any] = {}
        found = {}
        for name, content in files.items():
            columns = _numbers(content.decode())
            if columns is None:
                text = found[name] = name.replace("/", ":")
                row[text] = content.decode()
                continue
            stem = Path(name).stem
            shape = (stem, *(f"{column} {values.dtype}" for column, values in columns.items()))
            same = sum(known[0] == stem for known in self._names)
            table = found[name] = self._names.setdefault(shape, f"{stem}~{same + 1}" if same else stem)
            row |= {f"{table}/{column}": values for column, values in columns.items()}
        self._rows.append(row)
        return found

    def table(self, cells: list[str], arrow: Any) -> pa.Table:
        """Return the rows that were added, with the ids of their cells."""
        names = dict.fromkeys(name for row in self._rows for name in row)
        columns = {name: _column([row.get(name) for row in self._rows], arrow) for name in sorted_tables(names)}
        return arrow.table({"cell": arrow.array(cells, arrow.string()), **columns})


def sorted_tables(names: Iterable[str]) -> list[str]:
    """Return the columns by their tables, those of one table in their order."""
    return sorted(names, key=lambda name: name.partition("/")[0])


def _column(values: list[Any], arrow: Any) -> Any:
    first = next(value for value in values if value is not None)
    kind = arrow.string() if isinstance(first, str) else arrow.list_(arrow.from_numpy_dtype(first.dtype))
    return arrow.array(values, kind)


def _numbers(text: str) -> dict[str, Any] | None:
    """Return the columns of a CSV table, or ``None`` if they would not give the same text again."""
    try:
        columns = parse_table(text.encode())
    except ValueError:
        return None
    if not columns or any(values.dtype == bool for values in columns.values()) or any("/" in name for name in columns):
        return None
    return columns if table_text(columns) == text else None
