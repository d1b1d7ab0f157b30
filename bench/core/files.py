"""Atomic files, JSON that is validated when it is read, and threads that read many files."""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.core.errors import RequestError

T = TypeVar("T")
R = TypeVar("R")
# Items in the queue for each thread: ImageNet's million images at once would take gigabytes.
_AHEAD = 16


class StoredModel(BaseModel):
    """Schema of a stored JSON file or of a part of one; strict, because a number in quotes is damage."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)


@contextlib.contextmanager
def replacing(file: Path, rivals: bool = False) -> Iterator[Path]:
    """Yield a temporary name to write to; the finished file then replaces ``file`` in one step.

    A reader sees the old content or the new one, never a part.

    Args:
        file: the file to be written.
        rivals: whether other processes may write the same file at the same time.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # The name of a rival has its process id, so that two writers never share a file; else a leftover is overwritten.
    unfinished = file.with_name(f".{file.name}.{os.getpid() if rivals else 'unfinished'}")
    try:
        yield unfinished
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(file: Path, content: Any, flushed: bool = False) -> None:
    """Write the complete file or nothing.

    Args:
        file: the file to be written; its folder is made.
        content: JSON content; NaN and infinity are refused.
        flushed: whether the content must survive a power cut right after the call.
    """
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"
    with replacing(file, rivals=True) as unfinished:
        unfinished.write_text(text)
        if flushed:
            flush(unfinished)
    if flushed:
        flush(file.parent)  # the rename itself


def read_json(file: Path) -> dict[str, Any]:
    """Return the content of a file that :func:`write_json` wrote.

    Raises:
        RequestError: if it is missing or broken.
    """
    try:
        content: Any = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} instead of names and values")
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{file} cannot be read ({error}); run again to have it written again") from error
    return content


def parse(file: Path, text: bytes, schema: type[BaseModel]) -> dict[str, Any]:
    """Return JSON content of that schema as it was written: nothing is added, left out or converted.

    Raises:
        RequestError: if the content does not fit the schema.
    """
    return check(file, load_json(file, text), schema)


def check(file: Path, content: Any, schema: type[BaseModel]) -> dict[str, Any]:
    """Return JSON content of that schema unchanged.

    Raises:
        RequestError: if it does not fit the schema.
    """
    try:
        schema.model_validate(content)
    except ValidationError as error:
        raise RequestError(unreadable(file, first_problem(error))) from error
    assert isinstance(content, dict)
    return content


def load_json(file: Path, text: bytes) -> Any:
    """Return the JSON content of a file's bytes.

    Raises:
        RequestError: if it is no JSON, or has a NaN.
    """
    try:
        content = json.loads(text.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(unreadable(file, error)) from error
    return content


def unreadable(file: Path, reason: object) -> str:
    """Return the message for a file that cannot be read, with the system's own words for an ``OSError``."""
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else reason
    return f"{file} cannot be read ({text})"


def first_problem(error: ValidationError) -> str:
    """Return the first problem with its field: ``spec.seed: Input should be a valid integer``."""
    problem = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(map(str, problem["loc"]))
    return f"{field}: {problem['msg']}" if field else str(problem["msg"])


def flush(path: Path) -> None:
    """Force a file's content, or a folder's list of names, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} instead of a number")


def ordered_map(
    work: Callable[[T], R], items: Iterable[T], threads: int | None = None, ahead: int | None = None
) -> Iterator[R]:
    """Yield ``work(item)`` of every item, in order; threads work a little ahead of the consumer.

    Decoding and hashing release Python's global lock, so that threads are enough.

    Args:
        work: function that runs in a thread.
        items: its arguments.
        threads: number of threads; default: two for each core.
        ahead: items that are worked on before their turn; default: some for each thread.

    Raises:
        Exception: the error of ``work``, at the item's turn; work that has not begun by then is cancelled.
    """
    threads = threads or min(32, 2 * (os.cpu_count() or 1))  # some wait for the disk while others compute
    ahead = ahead or _AHEAD * threads
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
