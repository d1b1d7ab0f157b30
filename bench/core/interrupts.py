"""Ctrl-C and SIGTERM, as opposed to exceptions by which foreign code ends a process instead of failing."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.core.errors import CellError
from bench.core.source_code import is_ours

# For each active call of `terminable`: the signals received.
_listening: list[list[int]] = []


@contextlib.contextmanager
def terminable() -> Iterator[list[int]]:
    """Let SIGTERM, which a batch system sends first, end the work as Ctrl-C does; yield the list of signals received.

    The exception does not carry the signal: libraries turn a subclass of KeyboardInterrupt into a plain one, and any
    code may raise it.
    """
    received: list[int] = []
    # Python sets signal handlers in the main thread only.
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def stop(number: int, _frame: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    # In the background of a shell Ctrl-C is ignored, and stays so.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
    _listening.append(received)
    try:
        yield received
    finally:
        _listening.remove(received)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Turn an exception that would end the process into an error like any other.

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
    """Return whether a KeyboardInterrupt comes from code instead of a signal, as far as that is known."""
    return bool(_listening) and not any(_listening)


def origin(error: BaseException) -> str:
    """Return the file and line that an exception comes from; empty for code of the harness itself."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename
    return "" if is_ours(Path(file)) else f"{file}:{trace.tb_lineno}"
