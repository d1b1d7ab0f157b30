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
@options.several("--metrics", "Comma-separated metrics, groups or METRIC.NUMBER. Default: all values.")
@click.option("--suite", help="Compare cells of the newest run of this suite.")
@click.option(
    "--run", "stamp", metavar="STAMP", help="Compare cells of this run. Default: the newest run with all methods."
)
@click.option("--first-only", is_flag=True, help="Compare only A with each of the others, which needs fewer tests.")
@options.stored_tables
def compare(
    methods: tuple[str, ...],
    metrics: tuple[str, ...],
    suite: str | None,
    stamp: str | None,
    first_only: bool,
    fmt: str,
    out: Path | None,
    **style: Any,
) -> None:
    """Test which differences between methods are significant, from stored results; no model is run.

    A, B, ... are the labels of methods, controls or the black box in the tables. For every data set, backbone and
    metric the command prints both values, their difference with a 95 % interval, and the p value of a paired test over
    images or classes, corrected for all tests of the call (Holm). Only numbers of the same data, protocol and metric
    version are compared. Three or more methods also get mean ranks, unless --first-only.

    \b
    python -m bench compare ours protopnet
    python -m bench compare ours constant --metrics consistency,consistency_controlled
    python -m bench compare ours protopnet tesnet --first-only --format md

    Exit code 1: nothing could be compared.
    """  # noqa: D301 (click reads the character itself)
    from bench.report.contest_tables import as_csv, as_json, contest_tables
    from bench.results.stats.compare import compare as judge

    found = judge(options.open_store(out), methods, metrics, stamp, suite, first_only)
    if fmt in ("json", "csv"):
        # For programs there is one record of a comparison, with more than its table has.
        options.refuse_table_style(style, f"--format {fmt}")
        say({"json": as_json, "csv": as_csv}[fmt](found), nl=False)
    else:
        options.print_tables(contest_tables(found), fmt, f"Comparison of {', '.join(methods)}", **style)
    sys.exit(0 if any(one.p is not None for one in found.comparisons) else 1)


@click.command()
@click.argument("methods", nargs=-1, metavar="[A B ...]")
@click.option("--suite", help="Take the cells of the newest run of this suite.")
@click.option("--run", "stamp", metavar="STAMP", help="Take the cells of this run. Default: all cells.")
@options.table_format
@options.home
def seeds(methods: tuple[str, ...], suite: str | None, stamp: str | None, fmt: str, out: Path | None) -> None:
    """Say whether trainings with other seeds find the same parts, from stored results; no model is run.

    For each method with two or more seeds in which consistency was measured: the share of prototypes that a best
    matching of two seeds pairs with one of the same part, and that of the images in which matched prototypes peak at
    one place, each with its chance level. A, B, ... are labels of the tables; by default all.
    """
    from bench.report.seed_table import seed_table
    from bench.results.stats.seed_agreement import seed_agreement

    options.print_tables([seed_table(seed_agreement(options.open_store(out), methods, stamp, suite))], fmt, "Seeds")


@click.command()
@click.argument("methods", nargs=-1, metavar="[A B C ...]")
@options.of_cells
@options.stored_tables
def rank(
    methods: tuple[str, ...], metrics: tuple[str, ...], suite: tuple[str, ...], fmt: str, out: Path | None, **style: Any
) -> None:
    """Rank methods over data sets, backbones and seeds, with the uncertainty of the ranks; no model is run.

    For each metric: the mean rank over all blocks (data set, backbone, seed) that the methods share, its 95 % interval,
    and how often each method is best if test images or classes, and seeds, are drawn again. A, B, C, ... are labels of
    the tables; by default as many as share blocks, in the settings of their recipes.

    \b
    python -m bench rank
    python -m bench rank ours protopnet tesnet --metrics consistency,stability
    """  # noqa: D301 (click reads the character itself)
    from bench.report.rank_table import rank_tables
    from bench.results.stats.ranking import ranked

    found = ranked(options.open_store(out), methods, metrics, suite)
    options.print_tables(rank_tables(found), fmt, "Ranks", **style)


@click.command()
@options.of_cells
@options.several("--settings", "Also what these settings move, with commas: stage,crop,k or all.")
@options.stored_tables
def variance(
    metrics: tuple[str, ...],
    suite: tuple[str, ...],
    settings: tuple[str, ...],
    fmt: str,
    out: Path | None,
    **style: Any,
) -> None:
    """Say how much the method, the backbone and the seed move each score, from stored results; no model is run.

    For each metric the standard deviation that each source adds (variance components), over the methods and blocks
    (data set, backbone, seed) of the largest complete table. With --settings also the difference between cells that
    differ in one setting alone, as before and after the projection.

    \b
    python -m bench variance --metrics accuracy,consistency
    python -m bench variance --settings stage
    """  # noqa: D301 (click reads the character itself)
    from bench.report.rank_table import moves_table, variance_table
    from bench.results.stats.variance import explained

    found, moved, units = explained(options.open_store(out), metrics, suite, settings)
    tables = [variance_table(found, units), *([moves_table(moved, units)] if moved else [])]
    options.print_tables(tables, fmt, "Variance", **style)


COMMANDS: list[click.Command] = [compare, rank, seeds, variance]
