"""Digests of all that the pages of a report are made from, so that unchanged ones are not made again."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.core import registry
from bench.core.content_digest import state_of
from bench.report.cell_page import CellPage
from bench.results.result_set import ResultSet

_ROOT = Path(__file__).resolve().parents[3]
# Programs, templates, published numbers, and the recipes whose departures are printed.
_KINDS = (".py", ".html", ".css", ".js", ".csv", ".yaml", ".json", ".bib")


def cell_digest(page: CellPage, runs: Mapping[str, Mapping[str, Any]], frame: Iterable[str] = ()) -> str:
    """Return the digest of what the page of a cell is made from; ``frame`` are texts on every page of the report."""
    return _digest([code_of_pages(), *frame, *page.sources(), *(str(runs[stamp]["command"]) for stamp in page.stamps)])


def site_digest(cells: ResultSet, pages: Mapping[str, str], asked: Iterable[Any]) -> str:
    """Return the digest of what a whole report is made from: cells, digests of their pages, its arguments."""
    store = cells.store
    order = [[cell.name, cell.stamp, cell.command, sorted(cell.suites), cell.referenced] for cell in cells]
    # Their summaries are printed; those of plugins are in no file of ours.
    methods = {name: entry.summary for name, entry in registry.names("methods").items()}
    scales = [f"{file.name} {state_of(file)}" for file in sorted((store.root / "scale").glob("*.json"))]
    content = [order, pages, [*asked], store.invocations(), store.faults, methods, scales]
    return _digest([code_of_pages(), str(store.root.resolve()), json.dumps(content)])


@functools.cache
def code_of_pages() -> str:
    """Return a digest of the code that makes pages, with the metrics, the recipes and the libraries by version."""
    digest = hashlib.sha256()
    for folder in ("bench", "metrics"):
        for place, inside, files in os.walk(_ROOT / folder, followlinks=True):
            inside[:] = sorted(name for name in inside if name != "__pycache__")
            for file in sorted(name for name in files if name.endswith(_KINDS)):
                digest.update(f"{place}/{file}\n".encode())
                digest.update((Path(place) / file).read_bytes())
    digest.update(" ".join(version(name) for name in ("jinja2", "markupsafe", "matplotlib", "numpy", "scipy")).encode())
    return digest.hexdigest()


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode(errors="surrogatepass")).hexdigest()[:32]
