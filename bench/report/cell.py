"""What is behind one cell's numbers."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.report.intervals import with_intervals
from bench.store import Row, Store

_MOST_PROTOTYPES = 12


def show_cell(store: Store, name: str, console: Console) -> None:
    """Print command, settings, environment, scores and the per-prototype tables of a cell.

    Args:
        store: where it lives.
        name: its id.
        console: where to print.
    """
    written, outcome = store.specification(name), store.outcome(name)
    spec, folder = written["spec"], store.cell(name)
    backbone = spec["backbone"] or "no backbone"
    console.print(f"[bold]{written['label']} · {spec['dataset']} · {backbone} · seed {spec['seed']}[/bold]  {name}")
    console.print(f"folder   {folder.path}", soft_wrap=True, highlight=False)
    console.print(f"command  {written['command']}", soft_wrap=True, highlight=False)
    for stamp, content in store.invocations().items():
        if name in content["cells"]:
            console.print(f"part of  {content['command']}  ({stamp})", soft_wrap=True, highlight=False)
    if outcome is not None:
        console.print(f"repeat   {_repeating(folder.path.resolve(), outcome)}", soft_wrap=True, highlight=False)
    console.print()
    console.print(_pairs("what it is, under the names that --set takes", _settings(spec)))
    if outcome is None:
        failure = folder.failure
        state = f"{failure['status']}: {failure['reason']}" if failure else "not finished"
        console.print(f"[red]{state}[/red]")
        if failure and failure["details"]:
            console.print(failure["details"], highlight=False, markup=False)
        log = folder.work / "log.txt"
        if log.is_file():
            console.print("last lines of its log:", highlight=False)
            console.print("".join(log.read_text().splitlines(keepends=True)[-10:]), highlight=False)
        return
    console.print(_scores(written, outcome, with_intervals(store, store.rows([name]))))
    facts = {**outcome["facts"], "prototypes": outcome["prototypes"], "parameters": outcome["parameters"]}
    facts |= {
        f"{name} {key}": value for name, about in outcome.get("given", {}).items() for key, value in about.items()
    }
    facts |= {f"{stage} seconds": value for stage, value in outcome["seconds"].items()}
    facts |= {f"{split} images": value for split, value in outcome["images"].items()}
    console.print(_pairs("about the fit", facts))
    console.print(_pairs("what it took of the machine, all attempts", _flatten(outcome.get("usage", {}))))
    seeds = {f"seed of {part}": value for part, value in outcome.get("seeds", {}).items()}
    console.print(_pairs("computed with", {**_flatten(outcome["environment"]), **seeds}))
    versions = folder.result / "packages.txt"
    if versions.is_file():
        console.print(f"[dim]all installed packages: {versions}[/dim]", soft_wrap=True, highlight=False)
    for file in sorted((folder.result / "items").glob("*.prototype.csv")):
        rows = list(csv.DictReader(file.read_text().splitlines()))
        console.print(_prototypes(file.name.split(".")[0], rows))
        console.print(f"[dim]all of them: {file}[/dim]", soft_wrap=True, highlight=False)


def _repeating(folder: Path, outcome: Mapping[str, Any]) -> str:
    """The command that computes it again, from nothing; with as many threads, since their number orders sums."""
    environment = outcome["environment"]
    words = [f"BENCH_HOME=repeat-{folder.name}", f"OMP_NUM_THREADS={environment['threads']}", "python -m bench repeat"]
    return " ".join([*words, shlex.quote(str(folder)), "--device", environment["device"]])


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    sections = {"settings": spec["method"], "black_box": "classifier", "protocol": f"{spec['dataset']}.protocol"}
    content = {sections.get(key, key): value for key, value in spec.items() if key != "metrics" and value is not None}
    return _flatten(content)


def _scores(written: Mapping[str, Any], outcome: Mapping[str, Any], rows: Sequence[Row]) -> Table:
    header = ("metric", "value", "95 % interval", "unit", "n", "version", "parameters")
    table = Table(*header, title="scores", title_justify="left")
    bounds = {row.metric: f"{_number(row.low)}, {_number(row.high)}" for row in rows if row.low is not None}
    for metric, facts in written["spec"]["metrics"].items():
        if metric in outcome.get("not_applicable", {}):
            table.add_row(metric, "n/a", "", facts["unit"], "", facts["version"], outcome["not_applicable"][metric])
            continue
        score = outcome["scores"][metric]
        parameters = ", ".join(f"{key} {value}" for key, value in facts["parameters"].items())
        known = (_number(score["value"]), bounds.get(metric, ""), facts["unit"], str(score["n"]), facts["version"])
        table.add_row(metric, *known, parameters)
        for name, value in score.get("also", {}).items():
            further = f"{metric}.{name}"
            table.add_row(further, _number(value), bounds.get(further, ""), facts["unit"], "", "", "")
    for metric, facts in written["not_applicable"].items():
        table.add_row(metric, "n/a", "", facts["unit"], "", "", facts["reason"])
    return table


def _prototypes(metric: str, rows: list[dict[str, str]]) -> Table:
    title = f"{metric} per prototype" + (
        f", first {_MOST_PROTOTYPES} of {len(rows)}" if len(rows) > _MOST_PROTOTYPES else ""
    )
    table = Table(*(rows[0] if rows else ()), title=title, title_justify="left")
    for row in rows[:_MOST_PROTOTYPES]:
        table.add_row(*(_short(value) for value in row.values()))
    return table


def _number(value: float) -> str:
    """Two decimals where that says enough; residuals near zero keep their magnitude."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2e}"


def _short(value: str) -> str:
    return f"{float(value):.3f}" if "." in value else value


def _pairs(title: str, values: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for key, value in values.items():
        table.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
    return table


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as dotted names, the form that ``--set`` takes."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = {str(position): item for position, item in enumerate(value)}
        if isinstance(value, dict):
            found.update(_flatten(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found
