"""Names of the settings of built-in methods and metrics, read from their source: to import them is to import torch."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

from bench.core import registry

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("baselines", "bench", "metrics")
# Module, and the class in its source.
_Class = tuple[str, ast.ClassDef]


def setting_names(name: str) -> frozenset[str] | None:
    """Return the names of the settings of a method or metric; ``None`` if it is not built in."""
    for kind in ("methods", "metrics"):
        entry = registry.CATALOGUE[kind].get(name)
        if entry is not None and entry.target.startswith(tuple(f"{package}." for package in _PACKAGES)):
            return frozenset(_fields(_config_of(_find(*entry.target.split(":")))))
    return None


@functools.cache
def _names(module: str) -> dict[str, ast.ClassDef | tuple[str, str]]:
    """Return the classes of a module's source, and what it imports from our packages: module and name."""
    found: dict[str, ast.ClassDef | tuple[str, str]] = {}
    for node in ast.parse((_ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in _PACKAGES:
            found |= {one.asname or one.name: (str(node.module), one.name) for one in node.names}
    return found


def _find(module: str, name: str) -> _Class | None:
    """Return a class by the name that a module has for it; ``None`` if it is of a library."""
    found = _names(module).get(name)
    return _find(*found) if isinstance(found, tuple) else found and (module, found)


def _bases(module: str, node: ast.ClassDef) -> Iterator[_Class]:
    for base in node.bases:
        owner, _, inner = ast.unparse(base).partition(".")
        found = _find(module, owner) if isinstance(base, ast.Name | ast.Attribute) else None
        if found is not None:
            # `class Config(Other.Config)`: the settings of another method.
            found = _config_of(found) if inner == "Config" else found
        if found is not None:
            yield found


def _config_of(owner: _Class | None) -> _Class | None:
    """Return the class ``Config`` of a method or metric, its own or of a base."""
    if owner is None:
        return None
    module, node = owner
    for line in node.body:
        if isinstance(line, ast.ClassDef) and line.name == "Config":
            return module, line
        if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
            target = line.targets[0] if isinstance(line, ast.Assign) else line.target
            if ast.unparse(target) == "Config":
                return _find(module, ast.unparse(line.value))
    return next(filter(None, map(_config_of, _bases(module, node))), None)


def _fields(config: _Class | None) -> set[str]:
    if config is None:
        return set()
    module, node = config
    annotated = [line for line in node.body if isinstance(line, ast.AnnAssign)]
    own = {ast.unparse(line.target) for line in annotated if not ast.unparse(line.annotation).startswith("ClassVar")}
    return own.union(*map(_fields, _bases(module, node)))
