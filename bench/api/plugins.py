"""Decorators that add a class to the catalogue under a name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from bench.core import registry
from bench.core.errors import RequestError
from bench.core.interrupts import contained
from bench.core.registry import Role

C = TypeVar("C", bound=type)


def register_method(name: str, summary: str = "", role: Role = "method") -> Callable[[C], C]:
    """Return a decorator that registers a subclass of :class:`bench.contract.Method`.

    ::

        @bench.register_method("mine")
        class Mine(bench.contract.Method): ...

    Args:
        name: of letters, digits and ``. _ -``.
        summary: shown by ``ls methods``; default: the first line of the docstring.
        role: ``method``, or ``reference`` or ``control`` for a row that does not compete.

    Raises:
        ValueError: for a name that is invalid or taken by another class.
    """
    return _decorator("methods", name, summary, role=role)


def register_metric(name: str, summary: str = "", chance: bool = True) -> Callable[[C], C]:
    """Return a decorator that registers a subclass of :class:`bench.contract.Metric`.

    ::

        @bench.register_metric("sparsity")
        class Sparsity(bench.contract.Metric): ...

    Args:
        name: of letters, digits and ``. _ -``.
        summary: shown by ``ls metrics``; default: the first line of the docstring.
        chance: whether the score of a content-free control is the chance level of methods.

    Raises:
        ValueError: for a name that is invalid or taken by another class.
    """
    return _decorator("metrics", name, summary, chance=chance)


def register_dataset(name: str, summary: str = "") -> Callable[[C], C]:
    """Return a decorator that registers a reader of data sets (:class:`bench.contract.Dataset`).

    ::

        @bench.register_dataset("mushrooms")
        class Mushrooms: ...

    Args:
        name: of letters, digits and ``. _ -``.
        summary: shown by ``ls datasets``; default: the first line of the docstring.

    Raises:
        ValueError: for a name that is invalid or taken by another class.
    """
    return _decorator("datasets", name, summary)


def _decorator(kind: str, name: str, summary: str, role: Role = "method", chance: bool = True) -> Callable[[C], C]:
    def register(plugin: C) -> C:
        registry.register(kind, name, plugin, summary, role, chance)
        return plugin

    return register


def load_plugins(files: Iterable[Path]) -> None:
    """Run plugin files, so that the names they register are known.

    Raises:
        RequestError: naming the file and the reason.
    """
    for file in files:
        try:
            with contained():
                registry.load_plugin(file)
        except Exception as error:
            raise RequestError(f"plugins: {file}: {type(error).__name__}: {error}") from error


def check_reproducible(kind: str, names: Iterable[str], several: bool) -> None:
    """Refuse registered classes that a cell could not name or find again.

    Args:
        kind: of the catalogue.
        names: in it; unknown ones are left to others.
        several: whether cells run in processes of their own.

    Raises:
        RequestError: naming the remedy.
    """
    for name in names:
        entry = registry.CATALOGUE[kind].get(name)
        module = None if entry is None else sys.modules.get(entry.target.partition(":")[0])
        if entry is None or module is None:
            continue
        # Edited code under an unchanged id would return the stored numbers of the old code.
        if getattr(module, "__file__", None) is None:
            raise RequestError(
                f"{kind[:-1]} {name!r} is defined in no file, so its code cannot be part of a result's identity: "
                "write it to a file and pass plugins=[FILE]; bench.evaluate measures it as it is"
            )
        if several and entry.code is not None and not registry.is_plugin_file(Path(entry.code.file)):
            raise RequestError(
                f"{kind[:-1]} {name!r} is registered in this process only, and cells run in others: "
                f"pass plugins=[{entry.code.file!r}]"
            )
