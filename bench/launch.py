"""Runs planned cells. ``inline``: one after the other in this process; other launchers start ``bench cell DIR``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.markup import escape

from bench.cell import Cell, reason_of
from bench.memory import OutOfMemory
from bench.plan import PlannedCell, describe
from bench.progress import ConsoleProgress
from bench.store import Store, write_json


@dataclass
class Summary:
    """What became of a run's cells: their ids."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def write_down(cells: Sequence[PlannedCell], store: Store, command: Callable[[PlannedCell], str]) -> None:
    """Put each cell's ``cell.json`` in its folder: from then on it is a command of its own.

    The newest request wins: the same cell may be asked for from another place, under another label.
    """
    for cell in cells:
        file = store.cell(cell.spec.id).path / "cell.json"
        content = describe(cell, command(cell))
        if not file.is_file() or Store.read(file) != content:
            write_json(file, content)


def inline(
    cells: Sequence[PlannedCell],
    store: Store,
    home: Path,
    device: torch.device,
    progress: ConsoleProgress,
    *,
    rerun: bool = False,
    memory_limit: int | None = None,
    after: Callable[[str], None] = lambda name: None,
) -> Summary:
    """Run the cells that are not finished; one that fails is recorded and the others go on.

    Args:
        cells: in order.
        store: where they live.
        home: ``BENCH_HOME``.
        device: where tensors go.
        progress: where it is told.
        rerun: forget earlier results of these cells.
        memory_limit: bytes for each cell.
        after: called with the id of each cell that was run.
    """
    summary = Summary()
    for position, cell in enumerate(cells):
        name = cell.spec.id
        folder = store.cell(name)
        if rerun:
            with folder.claim():
                folder.clear()
        title = f"[{position + 1}/{len(cells)}] {title_of(cell)}"
        if not cell.spec.metrics:
            progress.console.print(f"{title}  [dim]nothing to measure[/dim]", highlight=False, soft_wrap=True)
            summary.skipped.append(name)
            continue
        if folder.done:
            progress.console.print(f"{title}  [dim]done before[/dim]", highlight=False, soft_wrap=True)
            summary.skipped.append(name)
            continue
        progress.console.print(f"[bold]{title}[/bold]", highlight=False, soft_wrap=True)
        began = time.perf_counter()
        try:
            Cell(store, name, home, device, progress, memory_limit=memory_limit).run()
        except Exception as error:
            # Whatever a method or a metric does wrong ends its own cell only; Cell has recorded it with a traceback.
            reason, what = reason_of(error), "out of memory" if isinstance(error, OutOfMemory) else "failed"
            progress.console.print(f"  [red]{what}:[/red] {escape(reason)}", highlight=False, soft_wrap=True)
            summary.failed[name] = reason
        else:
            progress.console.print(f"  done in {time.perf_counter() - began:.1f} s", highlight=False, soft_wrap=True)
            summary.done.append(name)
        after(name)
    return summary


def title_of(cell: PlannedCell) -> str:
    """Cell for people: ``ours · demo · tiny · seed 0``."""
    return " · ".join([cell.label, cell.spec.dataset, cell.spec.backbone or "no backbone", f"seed {cell.spec.seed}"])
