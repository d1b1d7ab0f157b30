"""Cells of a store from which a figure is drawn, and the commands for those that are missing."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.core.errors import RequestError
from bench.results.labels import text_of
from bench.results.select import Candidate, candidates
from bench.results.store import Store


def asked(store: Store, suite: str | None = None, stamp: str | None = None) -> list[Candidate]:
    """Return the cells of a store, of the newest run of a suite, or of one run; the newest first.

    Raises:
        RequestError: if there is no such run, or no cell.
    """
    cells = candidates(store, stamp, suite)
    if not cells:
        raise RequestError(
            f"there are no cells in {store.root}: python -m bench run --methods ours,protopnet --datasets demo"
        )
    return cells


def families(cells: Iterable[Candidate], *varying: str) -> list[list[Candidate]]:
    """Group cells that differ only in the named fields, such as ``settings.k`` or ``backbone``.

    The metrics never separate cells. A family with more different members comes first, then the newer one.
    """
    found: dict[str, list[Candidate]] = defaultdict(list)
    for cell in cells:
        rest = {key: value for key, value in cell.spec.items() if key != "metrics"}
        for name in varying:
            section, _, inner = name.partition(".")
            if inner:
                rest[section] = {key: value for key, value in rest[section].items() if key != inner}
            else:
                rest.pop(section, None)
        found[text_of(rest)].append(cell)
    # Sorting keeps the order of equals, and the cells come newest first.
    return sorted(found.values(), key=lambda family: -len({text_of(cell.spec) for cell in family}))


def repeated(cell: Candidate, settings: Mapping[str, Any], backbones: str | None = None) -> str:
    """Return the command that runs a cell's method on the same data with other settings.

    Args:
        cell: to take data, recipe, seed and weights from.
        settings: dotted names as ``--set`` takes them.
        backbones: instead of the cell's own; their weights are not known then.
    """
    spec, where = cell.spec, cell.found.written["where"]
    words = ["python", "-m", "bench", "run", "--methods", spec["method"], "--datasets", spec["dataset"]]
    if where.get("data_root"):
        words += ["--data-root", where["data_root"]]
    if backbones or spec["backbone"]:
        words += ["--backbones", backbones or spec["backbone"]]
    if where.get("weights") and backbones is None:
        words += ["--weights", f"{spec['backbone']}={where['weights']}"]
    if cell.found.written.get("recipe"):
        words += ["--recipe", cell.found.written["recipe"]]
    if spec["seed"]:
        words += ["--seeds", str(spec["seed"])]
    for name, value in settings.items():
        words += ["--set", f"{name}={value}"]
    return shlex.join(words)


def state_of(cells: Sequence[Candidate]) -> str:
    """Describe the state of unfinished cells of one kind: failed and why, not finished, or never requested."""
    failures = [cell.found.failure for cell in cells if cell.found.failure is not None]
    if failures:
        return f"{'out of memory' if failures[0]['status'] == 'oom' else 'failed'}: {failures[0]['reason']}"
    return "not finished" if cells else "not run"
