"""MLflow during and after a run: a mirror that is missing or broken never fails the run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from bench.contract import BenchError, Progress
from bench.report.mlflow.server import NOT_INSTALLED
from bench.results.store import Store


def installed() -> bool:
    """Return whether MLflow can be imported, without importing it: that takes seconds."""
    return find_spec("mlflow") is not None


@contextlib.contextmanager
def live(home: Path, out: Path | None, uri: str | None, stamp: str) -> Iterator[None]:
    """Mirror curves and finished cells of a run while it is in progress."""
    if not installed():
        yield
        return
    from bench.report.mlflow.live import followed

    with followed(home, out, uri, stamp):
        yield


def mirror(store: Store, home: Path, stamp: str, uri: str | None, progress: Progress) -> None:
    """Mirror a run, or report in one line why that was not possible."""
    if not installed():
        progress.note(NOT_INSTALLED)
        return
    from bench.report.mlflow import Mirror

    try:
        counts = Mirror(home, uri).sync(store, [stamp], progress)
    except (BenchError, OSError) as error:
        progress.note(f"MLflow: {str(error).removeprefix('MLflow: ')}")
    else:
        progress.note(str(counts))
