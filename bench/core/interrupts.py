"""Ctrl-C and SIGTERM, told apart from exceptions by which foreign code ends a process instead of failing."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core.errors import CellError
from bench.core.source_code import is_ours

_listening: list[list[int]] = []
"""Of each call of :func:`terminable` that is at work: the signals that came."""


@contextlib.contextmanager
def terminable() -> Iterator[list[int]]:
    """SIGTERM, what a batch system sends first, ends the work as Ctrl-C does; the list then tells which of them came.

    The exception cannot tell: libraries turn a subclass of KeyboardInterrupt into a plain one, and anyone may raise it.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def stop(number: int, _frame: Any) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    # In the background of a shell Ctrl-C is ignored, and stays so.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
    _listening.append(asked)
    try:
        yield asked
    finally:
        _listening.remove(asked)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """While it is entered, an exception that would end the process is an error like any other.

    Raises:
        CellError: instead of SystemExit and the like, and of a KeyboardInterrupt that no signal asked for.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not raised_by_code():
            raise
        raise CellError(
            f"{error!r} was raised by {origin(error)}: code that ends the process ends without a result, and has failed"
        ) from error


def raised_by_code() -> bool:
    """Whether a KeyboardInterrupt that is seen now comes from no signal, as far as that is known."""
    return bool(_listening) and not any(_listening)


def origin(error: BaseException) -> str:
    """Name the file and line that an exception comes from; empty where that is our own code."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename
    return "" if is_ours(Path(file)) else f"{file}:{trace.tb_lineno}"
