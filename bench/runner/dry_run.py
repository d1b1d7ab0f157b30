"""What a run would do, and how long it would take as far as the store knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.config.spec import PlannedCell
from bench.core.console import Console
from bench.results.store import Store, WorkDir
from bench.runner.eta import Timings, said
from bench.runner.heartbeat import activity_of

_HEADINGS = ("cell", "method", "dataset", "backbone", "seed", "state", "takes", "n/a")


def print_plan(console: Console, cells: Sequence[PlannedCell], store: Store, home: Path) -> None:
    """Every cell with what becomes of it, what is not applicable and why, and a line about the whole.

    Args:
        console: where to print.
        cells: the plan.
        store: where their results would lie.
        home: ``BENCH_HOME``, where black boxes lie.
    """
    timings = Timings.of_store(store)
    rows: list[tuple[str, ...]] = [_HEADINGS]
    reasons: dict[str, int] = {}
    counts: Counter[str] = Counter()
    boxes: dict[str, float | None] = {}
    known, unknown = 0.0, 0
    for cell in cells:
        spec, state = cell.spec, _state(cell, store)
        counts[state] += 1
        takes = "-"
        if state not in ("done", "nothing to measure"):
            seconds = timings.of(spec.model_dump(), cell.recipe, spec.fit_id)
            takes = "?" if seconds is None else said(seconds)
            known, unknown = known + (seconds or 0.0), unknown + (seconds is None)
            if spec.trains_black_box and not WorkDir(home / "blackboxes" / spec.black_box_id).done:
                boxes[spec.black_box_id] = timings.of_black_box(spec.model_dump(), cell.recipe)
        notes = [reasons.setdefault(why, len(reasons) + 1) for why in _refused(cell)]
        backbone, marks = spec.backbone or "-", ", ".join(map(str, notes))
        rows.append((spec.id, cell.label, spec.dataset, backbone, str(spec.seed), state, takes, marks))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += ["", *(f"n/a {number}: {why}" for why, number in reasons.items())] if reasons else []
    line = f"{len(cells)} cells: " + ", ".join(f"{count} {state}" for state, count in counts.items())
    if boxes:
        line += f"; black boxes to train first: {len(boxes)}"
        known += sum(seconds or 0.0 for seconds in boxes.values())
        unknown += sum(seconds is None for seconds in boxes.values())
    if known:
        line += f"; about {said(known)} one after the other, as earlier cells took"
        line += f", and {unknown} of unknown length" if unknown else ""
    console.out("\n".join([*lines, "", line]))


def _refused(cell: PlannedCell) -> list[str]:
    """Why metrics are not applicable, and which: those with the same reason together."""
    metrics: dict[str, list[str]] = {}
    for name, facts in cell.not_applicable.items():
        metrics.setdefault(facts["reason"], []).append(name)
    return [f"{reason} ({', '.join(names)})" for reason, names in metrics.items()]


def _state(cell: PlannedCell, store: Store) -> str:
    folder = store.cell(cell.spec.id)
    if not cell.spec.metrics:
        return "nothing to measure"
    failure = store.record(cell.spec.id).failure if folder.done else folder.failure
    if folder.done:
        return "done" if failure is None else "damaged, to run"
    activity = activity_of(folder)
    if activity is not None:
        return "running now" if activity["alive"] else "begun, to run"
    return "failed before, to run" if failure is not None else "to run"
