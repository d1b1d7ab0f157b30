"""The paper's numbers and those of this study, side by side: printed by ``python -m tests.support.published_beside``.

Nothing is subtracted: other images, networks and schedules lie between the two columns.
"""

from __future__ import annotations

import csv
import io

import click
from click.testing import CliRunner

from bench.cli.main import main as bench
from tests.support.documented import RESULTS, ROOT, plain

# Table, the run of the study that answers it, and a network of the paper that has all its rows.
TABLES = ((2, "study_birds", "resnet34"), (4, "study_sizes", "resnet34"), (5, "study_cars", "resnet152"),
          (6, "study_dogs", "resnet152"))  # fmt: skip
HEADER = ("| table | row | scores | paper | here |", "|---|---|---|---:|---:|")


def beside() -> str:
    """The table in Markdown; the folder of results lies in the working directory."""
    published = list(csv.DictReader((ROOT / "reports" / "published" / "tan2024.csv").open()))
    lines = list(HEADER)
    for table, suite, network in TABLES:
        theirs: dict[str, dict[str, str]] = {}
        for row in published:
            if row["table"] == str(table) and row["backbone"] == network and row["value"]:
                name = f"k = {row['k']}" if table == 4 else row["method"]
                theirs.setdefault(name, {})[row["stage"] or row["metric"]] = row["value"]
        for (name, backbone), own in _measured(table, suite).items():
            if name in theirs:
                pair = (" / ".join(scores[score] for score in own) for scores in (theirs[name], own))
                row = f"{name}, {backbone}" if backbone else name
                lines.append(f"| {table}, {network} | {row} | {' / '.join(own)} | {' | '.join(pair)} |")
    return "\n".join(lines)


def _measured(table: int, suite: str) -> dict[tuple[str, str], dict[str, str]]:
    """Values as they are printed, by row, backbone (of table 2) and score; changed settings under the method's name."""
    words = ["report", "--out", RESULTS, "--table", str(table), "--suite", suite, "--format", "csv"]
    result = CliRunner().invoke(bench, words)
    if result.exit_code:
        raise RuntimeError(result.output)
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in csv.DictReader(io.StringIO(plain(result.stdout))):
        if row["role"] == "method" and row["status"] == "ok":
            score = {2: row["column"], 4: row["group"]}.get(table, "accuracy")
            backbone = row["group"].removeprefix("timm:tf_") if table == 2 else ""
            found.setdefault((row["row"].partition(" (")[0], backbone), {})[score] = f"{float(row['value']):.1f}"
    return found


if __name__ == "__main__":
    click.echo(beside())
