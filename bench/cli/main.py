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
from click.core import ParameterSource
from rich.table import Table

from bench import __version__
from bench.cli import authors, compare, data, diagnostics, figures, models, options, posthoc, report, status
from bench.cli import cells as cli_grid
from bench.cli import tracking as cli_tracking
from bench.cli.completion import complete_names
from bench.core import interrupts, registry
from bench.core.console import Console, Text, say, settle_streams
from bench.core.errors import BenchError, DeviceLost, RequestError, storage_error
from bench.core.paths import all_plugins, config_files, config_folders
from bench.core.plain_text import for_csv, printable
from bench.runner.launchers.subprocess_job import DEVICE_LOST


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
            say(f"interrupted; {str(error) or 'the same command resumes'}", err=True)
            sys.exit(143 if signal.SIGTERM in asked else 130)
        except Exception as error:
            error = storage_error(error) or error
            if isinstance(error, BenchError | registry.UnknownName):
                say(f"error: {error}", err=True)
                refused = isinstance(error, RequestError | registry.UnknownName)
                sys.exit(2 if refused else DEVICE_LOST if isinstance(error, DeviceLost) else 1)
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
    help="Folder with your own datasets/, methods/, backbones/, suites/; it takes precedence over the package's.",
)  # fmt: skip
@click.pass_context
def main(context: click.Context, config_dir: Path | None) -> None:
    """PartBench: a benchmark of part-prototype interpretability.

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
@options.several("--methods", "Comma-separated methods, or all (`ls methods`).")
@options.several("--datasets", "Comma-separated data sets (`ls datasets`).")
@options.several("--backbones", "Comma-separated backbones. Default: the data set's default.")
@click.option("--seeds", callback=options.seeds, help="Comma-separated seeds. Default: 0.")
@options.several("--metrics", "Comma-separated metrics or groups, or all (`ls metrics`).")
@click.option("--suite", help="Suite by name (`ls suites`) or path of a YAML file; other options override it.")
@options.settings(
    "Setting: ours.k=5, or a grid: ours.k=3,5,10 (repeatable). cub.protocol=whole does not cut images to the box,"
    " cub.protocol=huang2023,whole runs both, in two tables."
)
@data.ROOT
@options.starting_weights("File of starting weights (repeatable).")
@options.home
@options.device
@options.choice("--recipe", ["published", "small", "demo"], "Training schedules of all methods.")
@options.choice("--precision", ["fp32", "bf16", "tf32"], "Training precision; tf32 only on NVIDIA GPUs. Default: fp32.")
@options.memory
@options.retries
@options.launcher
@options.choice("--existing", ["skip", "rerun"], "Skip or rerun finished cells.", "skip")
@click.option("--controls/--no-controls", default=None, help="Add black box and content-free controls. Default: add.")
@options.choice("--split", ["test", "train"], "Split for evaluation. Default: test.")
@click.option("--tracking/--no-tracking", default=True, show_default=True, help="Mirror results to MLflow.")
@options.tracking_uri
@click.option("--dry-run", is_flag=True, help="Print the planned cells and inapplicable metrics without running them.")
@options.plugin_files
def run(pairs: tuple[str, ...], plugins: tuple[Path, ...], uri: str | None, dry_run: bool, **given: Any) -> None:
    """Run methods on data sets, evaluate them, print the table.

    Finished cells are skipped, a killed run resumes, and concurrent runs of the same cells share the work. Exit code
    0: every cell is done; 1: a cell failed (the reason is printed and recorded) or the disk is full; 2: invalid
    request; 130: interrupted by Ctrl-C.
    """
    gc.disable()  # imports and plan stay: looking for garbage in them, again and again, takes a fifth
    from bench.api.run import repeating
    from bench.api.run import run as run_cells
    from bench.config.overrides import parse_overrides

    single, several = parse_overrides(pairs)
    # What the environment and the project file name is written out, so that the recorded command is whole.
    named = [word for file in all_plugins() for word in ("--plugin", str(file))]
    if click.get_current_context().get_parameter_source("data_root") is ParameterSource.DEFAULT and given["data_root"]:
        named += ["--data-root", str(given["data_root"])]
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:], *named])
    given.update(set={**single, **several}, tracking_uri=uri, plugins=plugins, dry_run=dry_run, command=command)
    results = run_cells(**given)
    if dry_run:
        return
    from bench.report import comparison, with_beyond_chance, write

    console = Console()
    console.print()
    tables = comparison(results.store, results.stamp)
    write(with_beyond_chance(tables), console=console)
    console.print(str(results.summary))
    for name, reason in results.failed.items():
        again = repeating(results.store, name, results.home)
        console.print(Text.assemble((name, "red"), f" {reason}\n  again: {again}"), soft_wrap=True)
        for line in results.store.cell(name).log_tail(5):
            console.print(Text(f"  log: {line}", style="dim"), soft_wrap=True)
    if given["suite"] == "demo" and not results.failed:
        _show_next(console, tables[0], given["out"])
    sys.exit(1 if results.failed else 0)


def _show_next(console: Console, table: Any, out: Path | None) -> None:
    """Print the demo's finding, and two commands that go on from it."""
    from bench.report.chance import finding

    here = Path(sys.executable)
    python = str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else "python")
    store = ["--out", str(out)] if out else []
    console.print(f"\n{finding(table)}\nnext, the prototypes on images, and all results as pages:")
    for words in (["figure", "8", "--count", "3"], ["report", "--format", "html"]):
        console.print(f"  {shlex.join([python, '-m', 'bench', *words, *store])}", soft_wrap=True)


@main.command("ls")
@click.argument("kind", type=click.Choice([*registry.KINDS, "suites"]), required=False)
@click.argument("pattern", required=False)
@options.as_json
@options.plugin
def ls(kind: str | None, pattern: str | None, as_json: bool) -> None:
    """List methods, datasets, backbones, metrics, official checkpoints or suites.

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
@click.option("--suite", help="Print only cells of this suite's runs.")
@click.option("--json", "fmt", flag_value="json", default=True, help="Print JSON (the default).")
@click.option("--csv", "fmt", flag_value="csv", help="Print CSV.")
@click.option("--intervals/--no-intervals", default=True, show_default=True, help="Compute the columns low and high.")
@options.plugin
def results(out: Path | None, suite: str | None, fmt: str, intervals: bool) -> None:
    """Print one row per cell and metric as JSON or CSV.

    low and high are the ends of a 95 % bootstrap interval over test images or classes, from the stored tables. In CSV
    an apostrophe precedes text that a spreadsheet would evaluate; JSON has every name unchanged.
    """
    import csv

    from bench.results.stats.intervals import with_intervals
    from bench.results.store import Row, as_dicts

    store = options.open_store(out)
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
@click.argument("name", metavar="CELL|METHOD")
@options.several("--metrics", "Columns of a method's list: comma-separated metrics or groups. Default: the usual ones.")
@options.several("--suite", "Only cells of these suites in a method's list, with commas.")
@options.home
def show(name: str, metrics: tuple[str, ...], suite: tuple[str, ...], out: Path | None) -> None:
    """Show a cell's command, settings, environment, scores and prototypes, or list the cells of a method.

    \b
    python -m bench show protopnet            every cell behind its rows: seed, values, code version
    python -m bench show 084a52               one of them: all that made it, and the command that repeats it
    """  # noqa: D301 (click reads the character itself)
    from bench.report.cell_list import cells_of_row
    from bench.report.cell_page import show_cell
    from bench.report.renderers import write

    store = options.open_store(out)
    if not any(cell.startswith(Path(name).name) for cell in store.cells()):
        write([cells_of_row(store, name, metrics, suite)])
        return
    if metrics or suite:
        raise RequestError("--metrics and --suite are for the list of a method, not for one cell")
    show_cell(store, store.find(name), Console())


_ELSEWHERE = (
    posthoc, models, data, diagnostics, compare, cli_grid, figures, status,
    cli_tracking, report, authors,
)  # fmt: skip
for _command in (command for module in _ELSEWHERE for command in module.COMMANDS):
    main.add_command(_command)
options.strictly(main)
complete_names(main)
