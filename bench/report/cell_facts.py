"""Facts behind one cell's numbers, before they are printed for a terminal or a page."""

from __future__ import annotations

import csv
import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from bench.core.integrity import Changed
from bench.core.paths import config_file
from bench.core.yaml12 import read_mapping
from bench.report.table import Column, vanishing
from bench.results.cautions import odd_facts
from bench.results.result_files import ResultFiles
from bench.results.store import Row

SCORES = ("metric", "value", "95 % interval", "unit", "n", "version", "parameters")


def settings_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a cell, under the names that ``--set`` takes."""
    sections = {"settings": spec["method"], "black_box": "classifier", "protocol": f"{spec['dataset']}.protocol"}
    content = {sections.get(key, key): value for key, value in spec.items() if key != "metrics" and value is not None}
    return flatten(content)


def score_rows(written: Mapping[str, Any], outcome: Mapping[str, Any], rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the scores of a finished cell, as texts under :data:`SCORES`; ``rows`` have the intervals, if known."""
    found: list[tuple[str, ...]] = []
    bounds = {row.metric: f"{number(row.low)}, {number(row.high)}"
              for row in rows if row.low is not None and row.high is not None}  # fmt: skip
    for metric, facts in written["spec"]["metrics"].items():
        unit, version = facts["unit"], str(facts["version"])
        if metric in outcome.get("not_applicable", {}):
            found.append((metric, "n/a", "", unit, "", version, outcome["not_applicable"][metric]))
            continue
        score = outcome["scores"][metric]
        parameters = ", ".join(f"{key} {value}" for key, value in facts["parameters"].items())
        column = Column.of(metric, facts, "")
        value = vanishing(score["value"]) if column.vanishes(score["value"]) else number(score["value"])
        known = (value, bounds.get(metric, ""), unit, str(score["n"]), version)
        found.append((metric, *known, parameters))
        for name, value in score.get("also", {}).items():
            further = f"{metric}.{name}"
            found.append((further, number(value), bounds.get(further, ""), unit, "", "", ""))
    for metric, facts in written["not_applicable"].items():
        found.append((metric, "n/a", "", facts["unit"], "", "", facts["reason"]))
    return found


def about_the_fit(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts that the method reports, sizes, seconds and counts of images."""
    facts = {**outcome["facts"], "prototypes": outcome["prototypes"], "parameters": outcome["parameters"]}
    facts |= {
        f"{name} {key}": value for name, about in outcome.get("given", {}).items() for key, value in about.items()
    }
    facts |= {f"{stage} seconds": value for stage, value in outcome["seconds"].items()}
    facts |= {f"{split} images": value for split, value in outcome["images"].items()}
    odd = odd_facts(outcome["facts"])
    return {**facts, "odd": "; ".join(odd)} if odd else facts


def deviations(written: Mapping[str, Any]) -> list[str]:
    """Return what the recipe of a cell does otherwise than the original of its method."""
    file = config_file("methods", written["spec"]["method"])
    stated = read_mapping(file).get("deviations", {}) if file.is_file() else {}
    return list(stated.get(written.get("recipe"), ()))


def computed_with(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return environment and seeds of a finished cell."""
    seeds = {f"seed of {part}": value for part, value in outcome.get("seeds", {}).items()}
    facts = flatten(outcome["environment"])
    if facts.get("arguments"):
        facts["arguments"] = shlex.join(facts["arguments"])
    return {**facts, **seeds}


def repeating(folder: Path, outcome: Mapping[str, Any]) -> str:
    """Return the command that computes it again, from nothing; with as many threads, since their number orders sums."""
    environment = outcome["environment"]
    words = [f"BENCH_HOME=repeat-{folder.name}", f"OMP_NUM_THREADS={environment['threads']}", "python -m bench repeat"]
    return " ".join([*words, shlex.quote(str(folder)), "--device", environment["device"]])


def prototype_tables(files: ResultFiles, most: int) -> dict[str, tuple[list[dict[str, str]], int]]:
    """Return the per-prototype tables of a finished cell: metric -> its first rows, and their total number.

    One that was changed since it was written has a single row with that remark.
    """
    found: dict[str, tuple[list[dict[str, str]], int]] = {}
    for name in files.names("items/*.prototype.csv"):
        metric = PurePath(name).name.split(".")[0]
        try:
            lines = files.read(name).decode().splitlines()
        except (OSError, ValueError, Changed) as error:
            found[metric] = ([{"damaged": str(error)}], 1)
            continue
        found[metric] = (list(itertools.islice(csv.DictReader(lines), most)), max(0, len(lines) - 1))
    return found


def number(value: float) -> str:
    """Format with two decimals if they are enough; residuals near zero keep their magnitude."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2e}"


def short(value: str) -> str:
    """Format a number of a table with three decimals; anything else is unchanged."""
    try:
        return f"{float(value):.3f}" if "." in value else value
    except ValueError:
        return value


def plain(value: Any) -> str:
    """Format a fact as text."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings and lists to dotted names, the form that ``--set`` takes."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = {str(position): item for position, item in enumerate(value)}
        if isinstance(value, dict):
            found.update(flatten(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found
