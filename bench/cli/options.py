"""Parsers of command line values (lists, seeds, sizes), and the options that several commands share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from bench.core import registry
from bench.core.errors import RequestError
from bench.core.interrupts import contained
from bench.core.paths import all_plugins, decodable
from bench.core.paths import home as find_home
from bench.core.project_file import FILE, project_file
from bench.runner.retries import RETRIES

PATH = click.Path(path_type=Path)
_MOST_BYTES = 2**50
_MOST_GPUS = 1024


class Whole(click.IntRange):
    """Whole number in ASCII digits, as people write one: Python also takes ``1_000`` and digits of any script."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,18}", value):
            # Eighteen digits fit into the 64 bits of any number that is made of it.
            self.fail(f"{registry.quoted(value)} is no whole number of at most 18 digits", param, ctx)
        return super().convert(value, param, ctx)


def strictly(command: click.Command) -> None:
    """Read the whole numbers of a command and of those below it as :class:`Whole`, so that none can be forgotten."""
    for parameter in command.params:
        kind = parameter.type
        if type(kind) is click.IntRange:
            parameter.type = Whole(kind.min, kind.max, kind.min_open, kind.max_open, kind.clamp)
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        strictly(inner)


def names(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Parse ``a,b`` into ``("a", "b")``."""
    if value is None:
        return ()
    parts = tuple(part.strip() for part in value.split(","))
    if not all(parts):
        raise click.BadParameter(f"{registry.quoted(value)}: empty name beside a comma; write a,b")
    twice = next((part for place, part in enumerate(parts) if part in parts[:place]), None)
    if twice is not None:
        raise click.BadParameter(f"{registry.quoted(twice)} is given twice")
    return parts


def seeds(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Parse ``0,1`` into ``(0, 1)``."""
    parts = names(context, option, value)
    if not all(re.fullmatch(r"-?[0-9]{1,18}", part) for part in parts):
        raise click.BadParameter(f"{registry.quoted(value or '')}: write whole numbers with commas, for example 0,1,2")
    found = tuple(map(int, parts))
    if len(set(found)) < len(found):
        raise click.BadParameter(f"{registry.quoted(value or '')}: a number is given twice")
    return found


def weights(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> dict[str, Path]:
    """Parse ``resnet34=FILE`` pairs into name -> file."""
    found: dict[str, Path] = {}
    for pair in value:
        name, separator, path = pair.partition("=")
        if not separator:
            raise click.BadParameter(f"{registry.quoted(pair)}: write BACKBONE=PATH, for example resnet34=resnet34.pth")
        found[name] = Path(path)
    return found


def shares(_context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> dict[str, float]:
    """Parse ``0.5`` or ``ours=0.5`` into method -> GPUs; the name ``""`` is for all others."""
    found: dict[str, float] = {}
    for one in value:
        name, _, amount = one.rpartition("=")
        found[name] = _amount(amount)
        if not 0 <= found[name] <= _MOST_GPUS:
            raise click.BadParameter(f"{registry.quoted(one)}: write a number such as 1 or 0.5, or METHOD=NUMBER")
    return found


def pairs(_context: click.Context, option: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    """Parse ``KEY=VALUE`` pairs."""
    found: dict[str, str] = {}
    for one in value:
        name, separator, rest = one.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"{registry.quoted(one)}: write {option.metavar}, for example partition=gpu")
        found[name] = rest
    return found


def size(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """Parse ``24GiB`` into bytes."""
    if value is None:
        return None
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
    for unit, factor in units.items():
        if value.endswith(unit):
            amount = _amount(value.removesuffix(unit).strip(" ")) * factor
            if 1 <= amount <= _MOST_BYTES:
                return int(amount)
    raise click.BadParameter(f"{registry.quoted(value)}: write a size such as 24GiB or 512MiB, of at most 1024TiB")


def _amount(text: str) -> float:
    """Return a number in ASCII digits; -1 if it is none, or not finite."""
    amount = float(text) if re.fullmatch(r"[0-9]{1,18}(\.[0-9]*)?([eE][-+]?[0-9]{1,3})?|\.[0-9]+", text) else -1.0
    return amount if math.isfinite(amount) else -1.0


def _device(_context: click.Context, _option: click.Parameter, value: str) -> str:
    """Check the form of a device such as ``cuda:1``; only torch knows whether it exists."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", value):
        raise click.BadParameter(
            f"{registry.quoted(value)}: only cpu and cuda are supported; write auto, cpu, cuda or cuda:1"
        )
    return value


def plugins(context: click.Context, _option: click.Parameter, value: tuple[Path, ...]) -> tuple[Path, ...]:
    """Load the files, those of ``BENCH_PLUGINS`` and of the project file: other options take the names in them."""
    if context.resilient_parsing:  # a shell completes a word: it waits for no import
        return value
    files = all_plugins(value)
    for file in files:
        try:
            with contained():
                registry.load_plugin(file)
        except Exception as error:
            # A plugin may raise anything when it is loaded: the message names the plugin and the reason.
            project = project_file()
            named = f"{FILE}: " if project and file in project.plugins else "BENCH_PLUGINS: "
            source = "" if file in value else named
            raise click.BadParameter(f"{source}{file}: {type(error).__name__}: {error}") from error
    return files


def target(_context: click.Context, option: click.Parameter, value: Path | None) -> Path | None:
    """Check that weights can be written to a folder of that name."""
    return None if value is None else decodable(value, option.opts[0])


def number(name: str, default: int | None, text: str, least: int = 1, dest: str | None = None) -> Callable[[Any], Any]:
    """Return the option of a whole number; ``text`` names the default if it depends on the device or the data."""
    kind, shown = click.IntRange(min=least), default is not None
    return click.option(*filter(None, (name, dest)), type=kind, default=default, show_default=shown, help=text)


def stack(*added: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return one decorator for several options, which ``--help`` lists in this order."""

    def add(command: Any) -> Any:
        for option in reversed(added):
            command = option(command)
        return command

    return add


def several(name: str, text: str) -> Callable[[Any], Any]:
    """Return the option of comma-separated names."""
    return click.option(name, callback=names, help=text)


def choice(name: str, values: Sequence[str], text: str | None = None, default: str | None = None) -> Callable[..., Any]:
    """Return the option of one of several words."""
    return click.option(name, type=click.Choice(values), default=default, show_default=default is not None, help=text)


def memory_limit(text: str, default: str | None = None) -> Callable[..., Any]:
    """Return the option of a size in bytes."""
    metavar, shown = None if default else "SIZE", default is not None
    return click.option(
        "--memory-limit", default=default, show_default=shown, metavar=metavar, callback=size, help=text
    )


def starting_weights(text: str) -> Callable[..., Any]:
    """Return the option of files with starting weights."""
    return click.option("--weights", multiple=True, callback=weights, metavar="BACKBONE=PATH", help=text)


def settings(text: str) -> Callable[[Any], Any]:
    """Return the option ``--set``, whose pairs are passed as ``pairs``."""
    return click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help=text)


FOLDER = click.Path(path_type=Path, file_okay=False)
home = click.option(
    "--out", type=FOLDER, default=None, callback=target, help="Folder of the results. Default: BENCH_HOME (./.bench)."
)


def open_store(out: Path | None) -> Any:
    """Open the store of ``--out``, or that of ``BENCH_HOME``."""
    from bench.results.store import Store

    return Store(out or find_home())


def elsewhere(data_root: Path | None) -> dict[str, str]:
    """Return a cell's override of the data folder from ``--data-root``, if given."""
    return {} if data_root is None else {"data_root": str(data_root.resolve())}


data_elsewhere = click.option(
    "--data-root", type=FOLDER, help="Folder of the data sets on this machine. Default: the planned one."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
as_json_format = click.option("--json", "fmt", flag_value="json", help="The same as --format json.")
_PLUGIN: dict[str, Any] = {
    "type": PATH,
    "multiple": True,
    "callback": plugins,
    "is_eager": True,
    "help": "Python file that registers methods, metrics or data sets (repeatable); also in BENCH_PLUGINS (FILE:FILE) "
    "or partbench.toml.",
}
plugin = click.option("--plugin", "plugins", expose_value=False, **_PLUGIN)
plugin_files = click.option("--plugin", "plugins", **_PLUGIN)
"""For commands that start other processes, which load the files too."""
device = click.option(
    "--device", default="auto", show_default=True, callback=_device, help="Device: auto, cpu, cuda or cuda:1."
)
feature_memory = memory_limit("Memory limit of a decomposition's features.", "1GiB")
memory = memory_limit(
    "Memory limit of a cell, such as 24GiB, of its tensors on the GPU (what CUDA itself takes for each process is "
    "not counted) or of the process on a CPU. A cell above it is retried with one image at a time, "
    "then recorded as out of memory. Default: no limit."
)
precision = choice("--precision", ["fp32", "bf16"], default="fp32")
FORMATS = ("text", "md", "latex", "html", "csv", "json")
"""Of every printed table, as in :mod:`bench.report.renderers`, whose import takes longer than most commands."""
table_format = click.option("--format", "fmt", type=click.Choice(FORMATS), default="text", show_default=True)


measured_format = stack(table_format, as_json_format)
"""Of a command that measures without a store."""
table_style = stack(
    several("--columns", "Columns or groups of columns to print, with commas."),
    several("--rows", "Rows to print, with commas; a backbone: those on it."),
    click.option("--rename", multiple=True, metavar="OLD=NEW", callback=pairs,
                 help="Print another name of a row, column, backbone or unit (repeatable)."),
    click.option("--digits", type=click.IntRange(0, 15), help="Decimals of percentages, digits of the rest."),
    click.option("--caption", default="", help="Instead of the title."),
    click.option("--label", default="", help="Of the LaTeX table."),
)  # fmt: skip
"""Fits a table to a text: the arguments of :func:`bench.report.table_style.styled`."""
stored_tables = stack(table_format, table_style, home, plugin)
"""Of a command that prints tables of stored results."""
of_cells = stack(
    several("--metrics", "Comma-separated metrics or groups. Default: the usual columns."),
    several("--suite", "Only cells of these suites, with commas. Default: all cells."),
)


def print_tables(tables: Sequence[Any], fmt: str, title: str, **style: Any) -> None:
    """Print tables in a format, with the values of :data:`table_style`."""
    from bench.report.renderers import write
    from bench.report.table_style import styled

    write(styled(tables, **style), fmt, title=title)


def refuse_table_style(style: dict[str, Any], where: str) -> None:
    """Refuse the options of :func:`table_style` where they would change nothing."""
    for name, value in style.items():
        if value not in (None, "", (), {}):
            raise RequestError(f"--{name} is for printed tables: not with {where}")


tracking_uri = click.option(
    "--tracking-uri",
    "uri",
    envvar="MLFLOW_TRACKING_URI",
    metavar="URI",
    help="MLflow server (http://HOST:5000) or database of the mirror. Default: $MLFLOW_TRACKING_URI, else "
    "BENCH_HOME/mlflow.db.",
)


launcher = stack(
    choice(
        "--launcher",
        ["inline", "ray", "slurm"],
        "Run cells here (on a GPU each in a process), on a Ray cluster (default: local), or as Slurm jobs.",
        "inline",
    ),
    number(
        "--jobs",
        None,
        "Maximum number of concurrent cells. Default: inline one per GPU (each gets the GPU with the fewest; "
        "with --device cuda:1 all share it), ray as many as fit, slurm 256.",
    ),
    click.option(
        "--gpus-per-cell",
        "gpus",
        multiple=True,
        callback=shares,
        metavar="[METHOD=]NUMBER",
        help="GPUs per cell, such as 1, 0.5 or ours=0.25 (repeatable). Default: 1 if there is a GPU; slurm: 0 "
        "without --device cuda, and only whole GPUs. With 2 or more, that many processes train the cell "
        "together (torchrun); inline requires 2 or more.",
    ),
    number("--cpus-per-cell", None, "CPUs, and therefore threads, per cell.", dest="cpus"),
    click.option("--ray-address", metavar="ADDRESS", help="Running Ray cluster: HOST:PORT or auto."),
    click.option(
        "--slurm",
        multiple=True,
        callback=pairs,
        metavar="KEY=VALUE",
        help="Option of sbatch: partition=gpu, time=8:00:00 (default 1 day), mem=32G, ... (repeatable).",
    ),
)
"""Chooses the launcher of cells."""
retries = number(
    "--retries",
    RETRIES,
    "Retries of a cell after transient failures (lost device, file system); it resumes from its checkpoint. "
    "Out of memory and errors that data and seed determine are not retried.",
    least=0,
)
