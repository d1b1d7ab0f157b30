"""What the store has of one cell, read and validated in one place: readers never meet JSON of another shape.

A field that a version of this program has not always written is optional here; what is not named here may be there.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bench.core.errors import RequestError
from bench.core.file_digests import FILE as DIGESTS
from bench.core.file_digests import Changed, checked, fingerprint, known_digests

Status = Literal["ok", "n/a", "failed", "oom"]
Name = Annotated[str, Field(pattern=r"^[^/\\\x00.][^/\\\x00]*$")]
"""Of a folder in the store: no path that leads elsewhere."""

AGAIN = ": `run` computes it again, and keeps what is there beside"
"""After what is wrong with a result."""


class _Record(BaseModel):
    """Part of a stored file; strict, for a number in quotes is damage."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)


class _Metric(_Record):
    version: str | int
    parameters: dict[str, Any]
    unit: str
    higher_is_better: bool = True


class _Refused(_Record):
    reason: str
    unit: str


class _Spec(_Record):
    method: str
    method_version: int
    settings: dict[str, Any]
    dataset: str
    data_digest: str
    protocol: dict[str, Any]
    on_bad_image: str
    backbone: str | None
    weights_digest: str
    black_box: dict[str, Any] | None
    seed: int
    precision: str
    split: str = "test"
    metrics: dict[str, _Metric]


class _Where(_Record):
    data_root: str | None
    folder: str | None
    reader: str
    options: dict[str, Any] = {}
    weights: str | None
    plugins: list[str]
    given: dict[str, str] = {}


class _Description(_Record):
    """``cell.json``; see :func:`bench.config.spec.describe`."""

    spec: _Spec
    where: _Where
    black_box_id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] | None = None
    fit_id: str | None = None
    label: str
    role: str
    recipe: str | None
    changed: list[str] = []
    not_applicable: dict[str, _Refused]
    command: str
    bench_version: str
    exported: bool = False
    black_box_seconds: float | None = None


class _Score(_Record):
    value: float
    n: int
    also: dict[str, float] = {}


class _Environment(_Record):
    bench: str
    git: str | None = None
    device: str
    hardware: str
    threads: int
    packages: dict[str, Any] = {}


class _Memory(_Record):
    peak_bytes: float | None = None
    limit_bytes: float | None = None
    retry: dict[str, Any] | None = None


class _Result(_Record):
    """``result.json``; see :meth:`bench.runner.cell.CellRunner.run`."""

    scores: dict[str, _Score]
    not_applicable: dict[str, str] = {}
    facts: dict[str, float]
    fit_of: str | None = None
    given: dict[str, dict[str, Any]] = {}
    memory: _Memory = _Memory()
    prototypes: int
    parameters: int
    images: dict[str, int]
    seconds: dict[str, float]
    usage: dict[str, float | dict[str, str] | None] = {}
    seeds: dict[str, int] = {}
    environment: _Environment


class _Failure(_Record):
    """``failure.json``; see :meth:`bench.core.work_dir.Folder.fail`."""

    status: Literal["failed", "oom"]
    reason: str
    details: str


class _Activity(_Record):
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


class _Invocation(_Record):
    """``invocations/STAMP.json``: one call of ``run``."""

    suite: str
    command: str
    cells: list[Name]


class _Epoch(_Record):
    """One row of ``history.json``; all else in it are numbers, the curves."""

    __pydantic_extra__: dict[str, float] = Field(init=False)
    phase: str = ""
    epoch: int = 0
    seconds: float = 0.0


_HISTORY = TypeAdapter(list[_Epoch])


@dataclass(frozen=True)
class CellRecord:
    """One cell as the store has it; every part is whole, or is not there.

    Attributes:
        name: its id.
        written: the content of its ``cell.json``; ``None`` where that is damaged, and ``failure`` says how.
        result: the content of its ``result.json``; ``None`` where it is not finished, or counts for nothing.
        failure: ``status``, ``reason`` and ``details`` of the last attempt, where it failed, or of what is damaged.
    """

    name: str
    written: dict[str, Any] | None
    result: dict[str, Any] | None
    failure: dict[str, Any] | None

    @functools.cached_property
    def spec(self) -> dict[str, Any]:
        """Everything that changes its result; empty where ``cell.json`` is damaged."""
        return self.written["spec"] if self.written is not None else {}

    @property
    def fit_id(self) -> str:
        """The id of what was fitted, by the specification itself: the same for cells that differ in metrics only."""
        return fingerprint({name: value for name, value in self.spec.items() if name not in ("split", "metrics")})


def failed(reason: str) -> dict[str, Any]:
    """Return a failure as :meth:`bench.core.work_dir.Folder.fail` writes it."""
    return {"status": "failed", "reason": reason, "details": ""}


def read_description(file: Path, name: str) -> dict[str, Any]:
    """Return the content of the ``cell.json`` of the cell with that id.

    Raises:
        RequestError: where it is missing or broken, or of another cell than its id says.
    """
    content = parse(file, _read(file), _Description)
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
        RequestError: where it is missing, broken or not complete, or was changed since it was written.
    """
    file = folder / "result.json"
    try:
        content = parse(file, checked(folder, file.name), _Result)
        lacking = set(metrics or ()) - {*content["scores"], *content.get("not_applicable", {})}
        if lacking:
            raise RequestError(_broken(file, f"it has no {', '.join(sorted(lacking))}"))
        if content.get("sealed") and known_digests(folder) is None:
            raise Changed(f"{folder / DIGESTS} is missing, with which {file.name} was written")
    except OSError as error:
        raise RequestError(f"{_broken(file, error)}{AGAIN}") from error
    except RequestError as error:
        raise type(error)(f"{error}{AGAIN}") from error
    return content


def read_failure(file: Path) -> dict[str, Any] | None:
    """Return why an attempt ended; ``None`` where no attempt has failed. A broken file is a failure too."""
    try:
        return parse(file, file.read_bytes(), _Failure)
    except FileNotFoundError:
        return None
    except OSError as error:
        return failed(_broken(file, error))
    except RequestError as error:
        return failed(str(error))


def read_activity(file: Path) -> dict[str, Any] | None:
    """Return what a process writes of its work; ``None`` where there is nothing, or nothing that makes sense."""
    try:
        return parse(file, file.read_bytes(), _Activity)
    except (OSError, RequestError):
        return None  # it has just ended, or was killed while it wrote


def read_invocation(file: Path) -> dict[str, Any]:
    """Return the record of one call of ``run``.

    Raises:
        RequestError: where it is missing or broken.
    """
    return parse(file, _read(file), _Invocation)


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a folder's ``history.json``, one for each epoch; empty where it has none.

    Raises:
        RequestError: where it is broken, or was changed since it was written.
    """
    file = folder / "history.json"
    try:
        content: list[dict[str, Any]] = _loaded(file, checked(folder, file.name))
        _HISTORY.validate_python(content)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RequestError(_broken(file, error)) from error
    except ValidationError as error:
        raise RequestError(_broken(file, _first(error))) from error
    return content


def parse(file: Path, text: bytes, shape: type[BaseModel]) -> dict[str, Any]:
    """Return JSON content of that shape, as it was written: nothing is added, left out or converted.

    Args:
        file: named in errors.
        text: the file's bytes.
        shape: what readers rely on.

    Raises:
        RequestError: where it has another one.
    """
    content = _loaded(file, text)
    try:
        shape.model_validate(content)
    except ValidationError as error:
        raise RequestError(_broken(file, _first(error))) from error
    assert isinstance(content, dict)
    return content


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RequestError(_broken(file, error)) from error


def _loaded(file: Path, text: bytes) -> Any:
    try:
        content = json.loads(text.decode(), parse_constant=_no_number)
        if b"\\ud" in text.lower():
            json.dumps(content, ensure_ascii=False).encode()  # halves of characters cannot be printed
    except (ValueError, RecursionError) as error:
        raise RequestError(_broken(file, error)) from error
    return content


def _no_number(name: str) -> float:
    raise ValueError(f"{name} where a number was expected")


def _broken(file: Path, reason: object) -> str:
    said = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
    return f"{file} cannot be read ({said})"


def _first(error: ValidationError) -> str:
    """The first thing that is wrong, with its place: ``spec.seed: Input should be a valid integer``."""
    about = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, about["loc"]))
    return f"{place}: {about['msg']}" if place else str(about["msg"])
