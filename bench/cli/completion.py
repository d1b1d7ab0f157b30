"""Completion of names in shells: methods, data sets, backbones, metrics, suites and cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from bench.core import registry
from bench.core.errors import BenchError

# Cells that are described: reading what each one is takes a fraction of a millisecond.
_DESCRIBED = 200
Found = Iterable[tuple[str, str]]


class Known(click.types.StringParamType):
    """Text that a shell can complete; of several names with commas, the last.

    Args:
        find: returns names with a description, from the command line so far and the letters of the name.
    """

    def __init__(self, find: Callable[[click.Context, str], Found]) -> None:
        self._find = find

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin with what is there."""
        before, comma, last = incomplete.rpartition(",")
        found = self._find(ctx, last)
        return [
            CompletionItem(f"{before}{comma}{name}", help=text or None) for name, text in found if name.startswith(last)
        ]


def _entries(*kinds: str) -> Callable[[click.Context, str], Found]:
    def find(_context: click.Context, _last: str) -> Found:
        return [(name, entry.summary) for kind in kinds for name, entry in registry.names(kind).items()]

    return find


def _of_suites(what: str) -> Callable[[click.Context, str], Found]:
    def find(_context: click.Context, _last: str) -> Found:
        from bench.config import suites  # reads YAML, which other commands need not import

        return [(name, "") for name in getattr(suites, what)()]

    return find


def _cells(context: click.Context, last: str) -> Found:
    from bench.cli.options import open_store
    from bench.results.labels import cell_title

    try:
        store = open_store(context.params.get("out"))
        names = sorted(name for name in store.cells() if name.startswith(last))[:_DESCRIBED]
        known = {name: store.written(name) for name in names}
    except (BenchError, OSError):
        return []  # a shell has no place for a message
    return [(name, cell_title(one["label"], one["spec"]) if one else "") for name, one in known.items()]


_BY_NAME: dict[str, Callable[[click.Context, str], Found]] = {
    "methods": _entries("methods"),
    "datasets": _of_suites("datasets"),
    "backbones": _entries("backbones"),
    "backbone": _entries("backbones"),
    "metrics": _entries("metrics"),
    "suite": _of_suites("suites"),
}


def complete_names(command: click.Command) -> None:
    """Let shells complete the names that a command and those below it take as text."""
    for parameter in command.params:
        find: Any = _BY_NAME.get(parameter.name or "")
        if str(parameter.metavar or "").startswith("CELL"):
            find = _cells
        if command.name == "check" and parameter.name == "name":
            find = _entries("methods", "metrics")
        if find is not None and type(parameter.type) is click.types.StringParamType:
            parameter.type = Known(find)
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        complete_names(inner)
