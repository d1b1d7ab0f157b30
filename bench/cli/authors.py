"""Commands for authors of plugins: start one, and check that it keeps the contract."""

from __future__ import annotations

import importlib.util
import json
import keyword
import re
import shlex
import sys
from pathlib import Path
from string import Template

import click

from bench.cli import options
from bench.config.overrides import single_about
from bench.core import registry
from bench.core.console import Console, say
from bench.core.errors import RequestError
from bench.core.paths import home as find_home

_TEMPLATES = Path(__file__).parent / "templates"
KINDS = ("method", "metric", "dataset")


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@click.option("--to", "folder", type=options.FOLDER, help="Folder of the files, which must not exist. Default: ./NAME.")
def new(kind: str, name: str, folder: Path | None) -> None:
    """Write a plugin that works, to be replaced by your own: a Python file, its recipes and its test.

    \b
    python -m bench new method mine
    python -m bench run --methods mine,ours --datasets demo --plugin mine/mine.py
    """  # noqa: D301 (click reads the character itself)
    module = _module_name(kind, name)
    folder = folder or Path(name)
    files = {f"{module}.py": "py", f"configs/{kind}s/{name}.yaml": "yaml", f"test_{module}.py": "test"}
    names = {"name": name, "module": module, "Class": "".join(map(str.capitalize, re.split(r"\W|_", name)))}
    try:
        folder.mkdir(parents=True)
        for file, template in files.items():
            source = _TEMPLATES / f"{kind}.{template}.txt"
            if source.is_file():  # a metric has no recipes
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(Template(source.read_text("utf-8")).substitute(names), "utf-8")
                say(f"written: {folder / file}")
    except OSError as error:
        raise RequestError(f"{error.filename}: {error.strerror}; name another folder with --to") from error
    here, plugin = shlex.quote(str(folder)), shlex.quote(str(folder / f"{module}.py"))
    test = f"python -m pytest {here}"
    run = {
        "method": f"run --methods {name},ours --datasets demo --plugin {plugin}",
        "metric": f"run --methods ours --metrics accuracy,{name} --datasets demo --plugin {plugin}",
        "dataset": f"data verify {name} --data-root DIR --plugin {plugin}",
    }
    say(f"next:\n  {test}\n  python -m bench {run[kind]}")
    say(f"without --plugin, in this shell: export BENCH_PLUGINS={shlex.quote(str((folder / module).resolve()))}.py")
    say(f"or always in this folder, in partbench.toml: plugins = {json.dumps([str(folder / f'{module}.py')])}")


def _module_name(kind: str, name: str) -> str:
    """Return the name of the plugin's module.

    Raises:
        RequestError: if the name is taken or cannot be a module's.
    """
    try:
        registry.check_name(f"{kind}s", name)
    except ValueError as error:
        raise RequestError(str(error)) from error
    if name in registry.names(f"{kind}s"):
        raise RequestError(f"{kind} {name!r} exists already: choose another name")
    module = re.sub(r"\W", "_", name)
    found = importlib.util.find_spec(module) if module.isidentifier() else None
    if not module.isidentifier() or keyword.iskeyword(module) or (found is not None and found.origin is not None):
        raise RequestError(f"{name!r} cannot name a Python module of your own: choose another name")
    return module


@click.command()
@click.argument("name")
@click.option(
    "--controls/--no-controls", default=None,
    help="Also measure a metric on the controls, on the demo birds. Default: if BENCH_HOME has them.",
)  # fmt: skip
@options.settings("Setting of NAME (repeatable).")
@options.plugin
def check(name: str, controls: bool | None, pairs: tuple[str, ...]) -> None:
    """Check that the method or metric NAME keeps the contract, on synthetic images, in under a minute.

    Prints one line per check. A method is also fitted by its whole demo recipe; a warning says if it then predicts at
    chance. Of a metric the value on each control that needs no trained classifier is printed: its chance level on the
    demo birds. Exit code 0: all passed; 1: some failed; 2: no method or metric has that name.
    """
    known = {*registry.names("methods"), *registry.names("metrics")}
    if name not in known:
        # Checked before the next step, which imports torch.
        raise RequestError(f"no method or metric {registry.quoted(name)}{registry.nearest(name, known, 'metrics')}")
    settings = single_about(pairs, [name])
    from bench.diagnostics.conformance import check as run

    broken = 0
    for outcome in run(name, settings):
        broken += outcome.problem is not None
        state = "ok" if outcome.problem is None else f"WRONG: {outcome.problem}"
        say(f"{outcome.kind} {name}: {outcome.check}: {f'WARNING: {outcome.warning}' if outcome.warning else state}")
    if name in registry.names("metrics") and not broken and controls is not False:
        _print_controls(name, drawn=controls is None)
    sys.exit(1 if broken else 0)


def _print_controls(metric: str, drawn: bool) -> None:
    """Print a metric's value on each control; if ``drawn``, only where the demo birds have been drawn before."""
    from bench.data.datasets import demo_folder
    from bench.diagnostics.control_values import on_controls
    from bench.runner.progress import ConsoleProgress

    if drawn and not demo_folder(find_home()).is_dir():
        say(f"metric {metric}: its value on the controls: --controls draws the demo birds and measures it")
        return
    for control, value in on_controls(metric, find_home(), ConsoleProgress(Console(quiet=True), quiet=True)):
        say(f"metric {metric}: on the demo birds, {control}: {value}")


COMMANDS: list[click.Command] = [new, check]
