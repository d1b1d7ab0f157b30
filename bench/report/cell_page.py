"""Terminal page of one cell's numbers and their origin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from bench.core.console import Console, Text
from bench.report.cell_facts import (
    SCORES,
    about_the_fit,
    computed_with,
    deviations,
    flatten,
    plain,
    prototype_tables,
    repeating,
    score_rows,
    settings_of,
    short,
)
from bench.results.stats.intervals import with_intervals
from bench.results.store import Store

_MOST_PROTOTYPES = 12


def show_cell(store: Store, name: str, console: Console) -> None:
    """Print command, settings, environment, scores and the per-prototype tables of a cell.

    Args:
        store: results.
        name: id of the cell.
        console: output.
    """
    record, folder = store.record(name), store.cell(name)
    written, outcome = record.written, record.result
    if written is None:
        console.print(f"{name}: {_state(record.failure)}", style="red")
        return
    spec = written["spec"]
    backbone = spec["backbone"] or "no backbone"
    title = f"{written['label']} · {spec['dataset']} · {backbone} · seed {spec['seed']}"
    console.print(Text.assemble((title, "bold"), f"  {name}"))
    console.print(f"folder   {folder.path}", soft_wrap=True)
    console.print(f"command  {written['command']}", soft_wrap=True)
    for stamp, content in store.invocations().items():
        if name in content["cells"]:
            console.print(f"part of  {content['command']}  ({stamp})", soft_wrap=True)
    if outcome is not None:
        console.print(f"repeat   {repeating(folder.path.resolve(), outcome)}", soft_wrap=True)
    console.print()
    console.print(_pairs("what it is, under the names that --set takes", settings_of(spec)))
    if departures := deviations(written):
        console.print("the recipe departs from the original:")
        console.print("\n".join(f"- {text}" for text in departures), highlight=False)
    if outcome is None:
        failure = record.failure
        console.print(_state(failure), style="red")
        if failure and failure["details"]:
            console.print(failure["details"])
        if lines := folder.log_tail(10):
            console.print("last lines of its log:")
            console.print("\n".join(lines))
        return
    scores = Table(*SCORES, title="scores", title_justify="left")
    for row in score_rows(written, outcome, with_intervals(store, store.rows([name]))):
        scores.add_row(*row)
    console.print(scores)
    console.print(_pairs("about the fit", about_the_fit(outcome)))
    console.print(_pairs("what it took of the machine, all attempts", flatten(outcome.get("usage", {}))))
    console.print(_pairs("computed with", computed_with(outcome)))
    versions = folder.result / "packages.txt"
    if versions.is_file():
        console.print(Text(f"all installed packages: {versions}", style="dim"), soft_wrap=True)
    for file, (rows, count) in prototype_tables(folder.result, _MOST_PROTOTYPES).items():
        console.print(_prototypes(file.name.split(".")[0], rows, count))
        console.print(Text(f"all of them: {file}", style="dim"), soft_wrap=True)


def _state(failure: Mapping[str, Any] | None) -> str:
    return f"{failure['status']}: {failure['reason']}" if failure else "not finished"


def _prototypes(metric: str, rows: list[dict[str, str]], count: int) -> Table:
    title = f"{metric} per prototype" + (f", first {len(rows)} of {count}" if count > len(rows) else "")
    table = Table(*(rows[0] if rows else ()), title=title, title_justify="left")
    for row in rows:
        table.add_row(*(short(value) for value in row.values()))
    return table


def _pairs(title: str, values: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for key, value in values.items():
        table.add_row(key, plain(value))
    return table
