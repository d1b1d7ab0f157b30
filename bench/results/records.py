"""Stored files of one cell, read and validated in one module: readers never meet JSON of another shape.

A field that not every version of this program has written is optional here; files may have further fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from bench.config.spec import SpecFields
from bench.core.errors import RequestError
from bench.core.files import StoredModel, check, first_problem, load_json, parse, unreadable
from bench.core.integrity import FILE as DIGESTS
from bench.core.integrity import Changed, fingerprint, known_digests, read_verified
from bench.results.result_files import FolderFiles, ResultFiles

Name = Annotated[str, Field(pattern=r"^[^/\\\x00.][^/\\\x00]*$")]
"""Of a folder in the store: no path that leads elsewhere."""

AGAIN = ": `run` computes it again, and keeps what is there beside"
"""After what is wrong with a result."""


class _Metric(StoredModel):
    version: str | int
    parameters: dict[str, Any]
    unit: str
    higher_is_better: bool = True


class _Refused(StoredModel):
    reason: str
    unit: str


class _Spec(SpecFields, StoredModel):
    # Results written before the split could be chosen were measured on ``test``.
    split: str = "test"
    metrics: dict[str, _Metric]


class _Where(StoredModel):
    data_root: str | None
    folder: str | None
    reader: str
    options: dict[str, Any] = Field(default_factory=dict)
    weights: str | None
    plugins: list[str]
    given: dict[str, str] = Field(default_factory=dict)


class _Description(StoredModel):
    """``cell.json``; see :func:`bench.config.spec.describe`."""

    spec: _Spec
    where: _Where
    black_box_id: Name | None = None
    fit_id: str | None = None
    label: str
    role: str
    recipe: str | None
    changed: list[str] = Field(default_factory=list)
    not_applicable: dict[str, _Refused]
    command: str
    bench_version: str
    exported: bool = False
    black_box_seconds: float | None = None


class _Score(StoredModel):
    value: float
    n: int
    also: dict[str, float] = Field(default_factory=dict)


class _Environment(StoredModel):
    bench: str
    git: str | None = None
    device: str
    hardware: str
    threads: int
    packages: dict[str, Any] = Field(default_factory=dict)


class _Memory(StoredModel):
    peak_bytes: float | None = None
    limit_bytes: float | None = None
    retry: dict[str, Any] | None = None


class _Result(StoredModel):
    """``result.json``; see :meth:`bench.runner.cell.CellRunner.run`."""

    scores: dict[str, _Score]
    not_applicable: dict[str, str] = Field(default_factory=dict)
    facts: dict[str, float]
    fit_of: str | None = None
    black_box: str | None = None
    given: dict[str, dict[str, Any]] = Field(default_factory=dict)
    memory: _Memory = _Memory()
    prototypes: int
    parameters: int
    images: dict[str, int]
    seconds: dict[str, float]
    usage: dict[str, float | dict[str, str] | None] = Field(default_factory=dict)
    seeds: dict[str, int] = Field(default_factory=dict)
    environment: _Environment


class _Activity(StoredModel):
    """``activity.json``; see :class:`bench.runner.heartbeat.Heartbeat`."""

    pid: int
    host: str
    boot: str = ""
    began: float
    began_clock: float
    stage: str
    what: str = ""
    done: int = 0
    total: int | None = None
    note: str = ""


class _Invocation(StoredModel):
    """``invocations/STAMP.json``: one call of ``run``."""

    suite: str
    command: str
    cells: list[Name]


class _Epoch(StoredModel):
    """Row of ``history.json``; all else in it are numbers, the curves."""

    __pydantic_extra__: dict[str, float] = Field(init=False)
    phase: str = ""
    epoch: int = 0
    seconds: float = 0.0


_HISTORY = TypeAdapter(list[_Epoch])

_File = Annotated[str, Field(pattern=r"^(items/)?[^/\\\x00.][^/\\\x00]*$")]


class _Failure(StoredModel):
    status: Literal["failed", "oom"]
    reason: str


class _ArchivedCell(StoredModel):
    description: _Description
    result: _Result | None
    failure: _Failure | None
    files: dict[_File, str]


class _Archive(StoredModel):
    """``SUITE/cells.json``; see :class:`bench.results.archive.Archive`."""

    stamp: Name
    run: _Invocation
    tables: Name
    tables_sha256: str
    cells: dict[Name, _ArchivedCell]


def read_description(file: Path, name: str) -> dict[str, Any]:
    """Return the content of the ``cell.json`` of the cell with that id.

    Raises:
        RequestError: if it is missing or broken, or does not match the id.
    """
    return check_description(file, parse(file, _read(file), _Description), name)


def check_description(file: Path, content: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the description of the cell with that id.

    Raises:
        Changed: if its specification has another id.
    """
    found = fingerprint(content["spec"])
    if found != name:
        raise Changed(f"{file} was changed after it was written: its content has the id {found}")
    return content


def read_result(folder: Path, metrics: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the content of the ``result.json`` of a finished cell.

    Args:
        folder: its ``result``.
        metrics: of the cell; each must have a score, or the reason why it has none.

    Raises:
        RequestError: if it is missing, broken or not complete, or was changed since it was written.
    """
    file = folder / "result.json"
    try:
        content = parse(file, read_verified(folder, file.name), _Result)
        _check_complete(file, content, metrics or {})
        if content.get("sealed") and known_digests(folder) is None:
            raise Changed(f"{folder / DIGESTS} is missing, with which {file.name} was written")
    except OSError as error:
        raise RequestError(f"{unreadable(file, error)}{AGAIN}") from error
    except RequestError as error:
        raise type(error)(f"{error}{AGAIN}") from error
    return content


def _check_complete(file: Path, result: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    lacking = set(metrics) - {*result["scores"], *result.get("not_applicable", {})}
    if lacking:
        raise RequestError(unreadable(file, f"it has no {', '.join(sorted(lacking))}"))


def check_archived(file: Path, content: Any) -> None:
    """Check that the content of a ``SUITE/cells.json`` has all that readers rely on.

    Raises:
        RequestError: if not.
    """
    check(file, content, _Archive)
    for cell in content["cells"].values():
        if cell["result"] is not None:
            _check_complete(file, cell["result"], cell["description"]["spec"]["metrics"])


def read_activity(file: Path) -> dict[str, Any] | None:
    """Return a process's record of its work; ``None`` if there is none, or none that is valid."""
    try:
        return parse(file, file.read_bytes(), _Activity)
    except (OSError, RequestError):
        return None  # it has just ended, or was killed while it wrote


def read_invocation(file: Path) -> dict[str, Any]:
    """Return the record of one call of ``run``.

    Raises:
        RequestError: if it is missing or broken.
    """
    return parse(file, _read(file), _Invocation)


def read_history(files: ResultFiles | Path) -> list[dict[str, Any]]:
    """Return the rows of ``history.json``, one for each epoch; empty if there is none.

    Args:
        files: of a result, or the folder that holds the file.

    Raises:
        RequestError: if it is broken, or was changed since it was written.
    """
    files = FolderFiles(files) if isinstance(files, Path) else files
    file = files.path("history.json")
    try:
        content: list[dict[str, Any]] = load_json(file, files.read(file.name))
        _HISTORY.validate_python(content)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RequestError(unreadable(file, error)) from error
    except ValidationError as error:
        raise RequestError(unreadable(file, first_problem(error))) from error
    return content


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RequestError(unreadable(file, error)) from error
