"""Command that tests which differences between methods hold."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bench.cli import options
from bench.core.console import say


@click.command()
@click.argument("methods", nargs=-1, required=True, metavar="A B [C ...]")
@click.option(
    "--metrics", callback=options.names, help="Names, groups or METRIC.NUMBER with commas; default: all values."
)
@click.option("--suite", help="Cells of the newest run of this suite.")
@click.option(
    "--run", "stamp", metavar="STAMP", help="Cells of this run. Default: of the newest run that has all methods."
)
@click.option("--first-only", is_flag=True, help="Only A with each of the others: one question, fewer tests.")
@options.table_format
@options.table_style
@options.home
@options.plugin
def compare(
    methods: tuple[str, ...],
    metrics: tuple[str, ...],
    suite: str | None,
    stamp: str | None,
    first_only: bool,
    fmt: str,
    out: Path | None,
    plugins: tuple[Path, ...],
    **style: Any,
) -> None:
    """Say which differences between methods hold, from stored results; no model is run.

    A, B, ... are methods as tables name them; controls and the black box may be among them. For every data set,
    backbone and metric: both values, their difference with a 95 % interval, and the p value of a test over the same
    images or classes, corrected for all tests of the call (Holm). What was measured on other data, under another
    protocol or by another definition is not compared. With three methods or more, mean ranks too, unless --first-only.

    \b
    python -m bench compare ours protopnet
    python -m bench compare ours constant --metrics consistency,consistency_controlled
    python -m bench compare ours protopnet tesnet --first-only --format md

    Exit code 1: nothing could be compared.
    """  # noqa: D301 (click reads the character itself)
    from bench.core.paths import home as find_home
    from bench.report.contest_tables import as_csv, as_json, contest_tables
    from bench.report.renderers import write
    from bench.report.styled import styled
    from bench.results.stats.compare import compare as judge
    from bench.results.store import Store

    found = judge(Store(out or find_home()), methods, metrics, stamp, suite, first_only)
    if fmt in ("json", "csv"):
        # For programs there is one record of a comparison, with more than its table has.
        options.refuse_table_style(style, f"--format {fmt}")
        say({"json": as_json, "csv": as_csv}[fmt](found), nl=False)
    else:
        write(styled(contest_tables(found), **style), fmt, title=f"Comparison of {', '.join(methods)}")
    sys.exit(0 if any(one.p is not None for one in found.comparisons) else 1)


COMMANDS = (compare,)
