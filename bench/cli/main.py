"""Command line: parse, call, print. Heavy modules are imported by the command that needs them."""

from __future__ import annotations

import contextlib
import fnmatch
import gc
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from bench import __version__
from bench.cli import cells as cli_grid
from bench.cli import compare, data, diagnostics, figures, models, options, posthoc, report, status
from bench.cli import tracking as cli_tracking
from bench.core import interrupts, registry
from bench.core.console import Console, Text, say, settle_streams
from bench.core.errors import BenchError, RequestError, storage_error
from bench.core.paths import config_files, config_folders
from bench.core.plain_text import for_csv, printable


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class _Group(click.Group):
    """Group that turns our own errors into one line and an exit code; click does the same for wrong options."""

    def invoke(self, context: click.Context) -> Any:
        asked: list[int] = []
        settle_streams()
        try:
            with interrupts.terminable() as asked:
                return super().invoke(context)
        except click.ClickException as error:
            error.message = printable(error.message)
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except SystemExit as error:
            # Our own commands end by it; if a plugin does, nobody would know which work was not done.
            if place := interrupts.origin(error):
                say(f"error: {error!r} was raised by {place}: the command did not come to its end", err=True)
                sys.exit(1)
            raise
        except KeyboardInterrupt as error:
            if not asked and (place := interrupts.origin(error)):
                say(f"error: KeyboardInterrupt was raised by {place}, not by Ctrl-C", err=True)
                sys.exit(1)
            say(f"interrupted; {str(error) or 'the same command goes on where it stopped'}", err=True)
            sys.exit(143 if signal.SIGTERM in asked else 130)
        except Exception as error:
            error = storage_error(error) or error
            if isinstance(error, BenchError | registry.UnknownName):
                say(f"error: {error}", err=True)
                sys.exit(2 if isinstance(error, RequestError | registry.UnknownName) else 1)
            raise
        finally:
            gc.enable()

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name and self.get_command(context, name) is None and not name.startswith("-"):
            raise click.UsageError(f"no command {name!r}{registry.nearest(name, self.list_commands(context))}")
        return super().resolve_command(context, args)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="partbench")
@click.option(
    "--config-dir", type=options.PATH, envvar="BENCH_CONFIGS",
    help="Folder with datasets/, methods/, backbones/, suites/ of your own, looked at before the package's.",
)  # fmt: skip
@click.pass_context
def main(context: click.Context, config_dir: Path | None) -> None:
    """PartBench: part-prototype interpretability, measured under one harness.

    \b
    python -m bench run --methods ours,protopnet --datasets demo
    python -m bench report
    python -m bench ui
    """  # noqa: D301 (click reads the character itself)
    if config_dir is not None:
        # In the environment, because processes that are started for cells read it too.
        context.with_resource(_environment("BENCH_CONFIGS", str(config_dir.resolve())))
        config_folders()


@main.command()
@click.option("--methods", callback=options.names, help="Names with commas, or all; `ls methods` lists them.")
@click.option("--datasets", callback=options.names, help="Names with commas; `ls datasets` lists them.")
@click.option("--backbones", callback=options.names, help="Names with commas; default: each data set's own.")
@click.option("--seeds", callback=options.seeds, help="Whole numbers with commas; default 0.")
@click.option("--metrics", callback=options.names, help="Names or groups with commas, or all; `ls metrics` has them.")
@click.option(
    "--suite", help="A suite by name (`ls suites`) or the path of a YAML file; the other options override it."
)
@click.option(
    "--set", "pairs", multiple=True, metavar="KEY=VALUE", help="For example ours.k=5, or ours.k=3,5,10 (repeatable)."
)
@click.option("--data-root", type=options.PATH, help="Folder that holds the data sets, or one of them.")
@click.option(
    "--weights",
    multiple=True,
    callback=options.weights,
    metavar="BACKBONE=PATH",
    help="Starting weights (repeatable).",
)
@options.home
@options.device
@click.option("--recipe", type=click.Choice(["published", "small", "demo"]), help="Training schedules of all methods.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="Of training; default fp32.")
@options.memory
@options.retries
@options.launcher
@click.option(
    "--existing", type=click.Choice(["skip", "rerun"]), default="skip", show_default=True, help="Finished cells."
)
@click.option("--controls/--no-controls", default=None, help="Add black box and content-free controls; default yes.")
@click.option("--split", type=click.Choice(["test", "train"]), help="Where metrics are measured; default test.")
@click.option("--tracking/--no-tracking", default=True, show_default=True, help="Mirror results to MLflow.")
@options.tracking_uri
@click.option("--dry-run", is_flag=True, help="Print the cells and what is not applicable, and stop.")
@options.plugin
def run(pairs: tuple[str, ...], plugins: tuple[Path, ...], uri: str | None, dry_run: bool, **given: Any) -> None:
    """Run methods on data sets, measure them, print the table.

    Cells that are finished are not run again; a run that was killed goes on where it stopped, and several runs of
    the same cells share the work. Exit code 0: every cell is done; 1: some cell failed (its reason is printed and
    recorded) or the disk is full; 2: the request is wrong; 130: interrupted by Ctrl-C.
    """
    gc.disable()  # imports and plan stay: looking for garbage in them, again and again, takes a fifth
    from bench.api.run import repeating
    from bench.api.run import run as run_cells
    from bench.config.overrides import parse_overrides

    single, several = parse_overrides(pairs)
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    given.update(set={**single, **several}, tracking_uri=uri, plugins=plugins, dry_run=dry_run, command=command)
    results = run_cells(**given)
    if dry_run:
        return
    from bench.report import report as render

    console = Console()
    console.print()
    render(results.store, console=console, stamp=results.stamp)
    console.print(str(results.summary))
    for name, reason in results.failed.items():
        again = repeating(results.store, name, results.home)
        console.print(Text.assemble((name, "red"), f" {reason}\n  again: {again}"), soft_wrap=True)
        for line in results.store.cell(name).log_tail(5):
            console.print(Text(f"  log: {line}", style="dim"), soft_wrap=True)
    sys.exit(1 if results.failed else 0)


@main.command("ls")
@click.argument("kind", type=click.Choice([*registry.KINDS, "suites"]), required=False)
@click.argument("pattern", required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@options.plugin
def ls(kind: str | None, pattern: str | None, as_json: bool, plugins: tuple[Path, ...]) -> None:
    """List what there is: methods, datasets, backbones, metrics, checkpoints (official ones), suites.

    PATTERN selects names, such as `ls backbones 'resnet*'`; 'timm:convnext*' and 'torchvision:*' search the networks of
    these packages, each of which is a backbone by that name.
    """
    listing: dict[str, list[dict[str, Any]]] = {}
    for one in [kind] if kind else [*registry.KINDS, "suites"]:
        if one == "suites":
            listing[one] = [
                {"name": name, "summary": _first_comment(file)} for name, file in config_files("suites").items()
            ]
        else:
            listing[one] = [
                {
                    "name": name,
                    "summary": entry.summary,
                    **({"role": entry.role} if one == "methods" else {}),
                    **dict(entry.facts),
                }
                for name, entry in registry.names(one).items()
            ]
    if pattern is not None:
        listing = {one: _matching(one, entries, pattern) for one, entries in listing.items()}
    if as_json:
        say(json.dumps(listing, indent=1))
        return
    console = Console()
    for one, entries in listing.items():
        table = Table(title=one, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2))
        # Names are there to be typed: they are never cut.
        table.add_column(no_wrap=True, min_width=max((len(entry["name"]) for entry in entries), default=0))
        for entry in entries:
            rest = [f"{key}: {value}" for key, value in entry.items() if key not in ("name", "summary")]
            table.add_row(Text(entry["name"], style="cyan"), entry["summary"], Text(", ".join(rest), style="dim"))
        console.print(table)
        console.print()


def _matching(kind: str, entries: list[dict[str, Any]], pattern: str) -> list[dict[str, Any]]:
    """Return the entries whose names match, or the networks of a library.

    Raises:
        RequestError: if there are none.
    """
    library = pattern.partition(":")[0]
    if kind == "backbones" and library in registry.LIBRARIES and ":" in pattern:
        from bench.models.backbones import library_names

        entries = [{"name": f"{library}:{name}", "summary": ""} for name in library_names(library)]
    matching = [entry for entry in entries if fnmatch.fnmatchcase(entry["name"], pattern)]
    if not matching:
        raise RequestError(f"no name of {kind} matches {pattern!r}; * stands for any letters")
    return matching


def _first_comment(file: Path) -> str:
    first = file.read_text().split("\n", 1)[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


@main.command()
@options.home
@click.option("--suite", help="Only cells of this suite's runs.")
@click.option("--json", "fmt", flag_value="json", default=True, help="The default.")
@click.option("--csv", "fmt", flag_value="csv")
@click.option("--intervals/--no-intervals", default=True, show_default=True, help="Fill low and high.")
@options.plugin
def results(out: Path | None, suite: str | None, fmt: str, intervals: bool, plugins: tuple[Path, ...]) -> None:
    """Print one row per cell and metric, for programs.

    low and high are the ends of a 95 % bootstrap interval over test images or classes, from the stored tables. In CSV a
    text that a spreadsheet would calculate has an apostrophe before it; JSON has every name exactly.
    """
    import csv

    from bench.core.paths import home as find_home
    from bench.results.stats.intervals import with_intervals
    from bench.results.store import Row, Store, as_dicts

    store = Store(out or find_home())
    if suite or not store.root.is_dir():
        store.chosen_run(suite=suite)  # raises with the reason
    measured = store.rows(suite=suite)
    rows = as_dicts(with_intervals(store, measured) if intervals else measured)
    if fmt == "csv":
        writer = csv.DictWriter(sys.stdout, fieldnames=list(Row.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: for_csv(value) for name, value in row.items()} for row in rows)
    else:
        say(json.dumps(rows, indent=1))


@main.command()
@click.argument("name", metavar="CELL")
@options.home
def show(name: str, out: Path | None) -> None:
    """Show what is behind a cell's numbers: command, settings, environment, scores, prototypes."""
    from bench.core.paths import home as find_home
    from bench.report.cell_page import show_cell
    from bench.results.store import Store

    store = Store(out or find_home())
    show_cell(store, store.find(name), Console())


_ELSEWHERE = (
    posthoc, models, data, diagnostics, compare, cli_grid, figures, status,
    cli_tracking, report,
)  # fmt: skip
for _command in (command for module in _ELSEWHERE for command in module.COMMANDS):
    main.add_command(_command)
options.strictly(main)
