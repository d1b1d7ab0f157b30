"""Registry of names: classes of the catalogue, of installed plugins and of plugin files."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from bench.core.catalogue import CATALOGUE as CATALOGUE
from bench.core.catalogue import Entry as Entry
from bench.core.catalogue import Role as Role
from bench.core.source_code import Code, code_of_module, is_ours, read_with_imports

KINDS = ("methods", "datasets", "backbones", "metrics", "checkpoints")
# Packages whose networks are backbones by name, ``timm:NAME``.
LIBRARIES = ("timm", "torchvision")
# Names that an error lists.
_MOST = 8
# Characters of a name in an error.
_LONGEST = 60

# Names are typed, printed, and part of file names.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# For each plugin file that was loaded: the files it consisted of, with their content then.
_contents: dict[Path, Mapping[Path, bytes]] = {}


class UnknownName(LookupError):
    """Name that is in no catalogue; the message names the nearest ones."""


# Cached: looking through the installed packages takes milliseconds, and they stay as they are.
@functools.cache
def _from_entry_points(kind: str) -> dict[str, Entry]:
    points = entry_points(group=f"bench.{kind}")
    return {
        point.name: Entry(
            point.value,
            f"plugin of {point.dist.name if point.dist else '?'}",
            distribution=f"{point.dist.name} {point.dist.version}" if point.dist else "?",
        )
        for point in points
    }


def names(kind: str) -> dict[str, Entry]:
    """Return all entries of a kind: built-in ones, then those of installed plugins (built-in ones win name clashes)."""
    return {**_from_entry_points(kind), **CATALOGUE[kind]}


def entry(kind: str, name: str) -> Entry:
    """Return the entry of that name.

    Raises:
        UnknownName: with the nearest known names.
    """
    if kind == "backbones" and set(":@") & set(name):
        return _named_backbone(name)
    # Built-in names win; looking through the installed packages takes milliseconds each time.
    known = {name: CATALOGUE[kind][name]} if name in CATALOGUE[kind] else names(kind)
    if name in known:
        return known[name]
    raise UnknownName(f"unknown {kind[:-1]} {quoted(name)}{nearest(name, known, kind)}")


def _named_backbone(name: str) -> Entry:
    """Return the entry of a library's network (``timm:NAME``), or of a variant of a backbone (``resnet50@frozen``).

    Raises:
        UnknownName: for another library, or a variant of an unknown backbone.
    """
    base, library = name.partition("@")[0], name.partition(":")[0]
    if ":" not in base:
        plain = replace(entry("backbones", base), distribution="")
    elif library in LIBRARIES:
        plain = Entry("", f"network of {library}")
    else:
        raise UnknownName(f"unknown backbone {quoted(name)}: write {' or '.join(f'{one}:NAME' for one in LIBRARIES)}")
    return replace(plain, target="bench.models.backbones:NamedBackbone", argument=name)


def nearest(name: str, known: Iterable[str], kind: str = "") -> str:
    """Return ``; did you mean 'x'?`` and the command that lists a ``kind``, or the known names, in a bounded line."""
    known = sorted(known)
    name = name[:_LONGEST]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    ratios = [difflib.SequenceMatcher(None, one, name).ratio() for one in close]
    # Others beside the nearest only if they are about as near.
    close = [repr(one[:_LONGEST]) for one, ratio in zip(close, ratios, strict=True) if ratio >= ratios[0] - 0.05]
    if close:
        listed = f" `python -m bench ls {kind}` lists all {len(known)}" if kind else ""
        return f"; did you mean {' or '.join([', '.join(close[:-1]), close[-1]] if close[1:] else close)}?{listed}"
    if kind and len(known) > _MOST:
        return f"; `python -m bench ls {kind}` lists all {len(known)}"
    return f"; {some(known, 'known: ')}" if known else ""


def some(names: Iterable[str], before: str = "") -> str:
    """Return names with commas, the first few if there are many.

    >>> some("abcdefghij")
    'a, b, c, d, e, f, g, h and 2 more'
    """
    names = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..." for name in names]
    rest = len(names) - _MOST
    return before + ", ".join(names[:_MOST]) + (f" and {rest} more" if rest > 0 else "")


def quoted(name: str) -> str:
    """Return a name from outside in quotes, escaped and of bounded length."""
    return repr(name) if len(name) <= _LONGEST else f"{name[:_LONGEST]!r}..."


def chosen_methods(wanted: Iterable[str]) -> list[str]:
    """Return the methods that a request names; ``all`` is every competing method."""
    competing = [name for name, entry in names("methods").items() if entry.role == "method"]
    return list(dict.fromkeys(name for word in wanted for name in (competing if word == "all" else [word])))


def chosen_metrics(wanted: Iterable[str], shared: bool) -> list[str]:
    """Return the metrics that a request names, singly or by group (``all`` is every metric), or those of every run.

    Args:
        wanted: names and groups; empty for those of every run.
        shared: whether some method shares prototypes among classes.

    Raises:
        UnknownName: with the nearest known names.
    """
    known = names("metrics")
    if not wanted:
        return [
            name
            for name, entry in known.items()
            if entry.measured == "always" or (shared and entry.measured == "shared")
        ]
    groups = {"all": list(known)}
    for name, entry in known.items():
        if entry.group:
            groups.setdefault(entry.group, []).append(name)
    chosen: list[str] = []
    for name in wanted:
        if name not in known and name not in groups:
            raise UnknownName(f"unknown metric {quoted(name)}{nearest(name, {**known, **groups}, 'metrics')}")
        chosen += [name] if name in known else groups[name]
    return list(dict.fromkeys(chosen))


def load(kind: str, name: str) -> Any:
    """Import and return the class or factory behind a name."""
    return entry(kind, name).load()


def code(kind: str, name: str) -> Code | None:
    """Return the code behind a name: of its plugin file as it was loaded, or of its installed package as it is now.

    Returns:
        ``None`` for built-in names.

    Raises:
        UnknownName: with the nearest known names.
    """
    if kind == "backbones" and ":" not in name:
        name = name.partition("@")[0]  # a variant runs the same code
    item = entry(kind, name)
    return code_of_module(item.target.partition(":")[0], item.distribution) if item.distribution else item.code


def load_plugin(file: Path) -> None:
    """Run a plugin file, which calls :func:`register`; the content that runs is the one that is hashed.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no plugin file {file}")
    # Its path is part of the module name: two plugins may have the same file name.
    name = f"bench_plugin_{file.stem}_{abs(hash(str(file.resolve())))}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    contents = read_with_imports(file)
    if _contents.get(file.resolve(), contents) != contents:
        _forget(contents)
    _contents[file.resolve()] = contents
    sys.modules[name] = module
    before = {kind: dict(entries) for kind, entries in CATALOGUE.items()}
    # Not by the loader: its bytecode counts as current if a file changed within a second and kept its size.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        exec(compile(contents[file.resolve()], file, "exec", dont_inherit=True), module.__dict__)
    finally:
        sys.dont_write_bytecode = writes
    for kind, entries in CATALOGUE.items():
        for key, item in entries.items():
            if item is not before[kind].get(key):
                defined = _contents_of(item)
                entries[key] = replace(item, code=Code.of(file.resolve(), {**defined, **contents}))


def plugin_configs() -> list[Path]:
    """Return the folders ``configs`` beside the loaded plugin files and in the packages of installed plugins."""
    places = [file.parent for file in _contents]
    installed = [item.target for kind in KINDS for item in _from_entry_points(kind).values()]
    packages = {target.partition(":")[0].partition(".")[0] for target in installed}
    # Of a name without a dot the specification is found without an import.
    for spec in filter(None, map(importlib.util.find_spec, sorted(packages))):
        places += map(Path, spec.submodule_search_locations or ())
    return [folder for place in dict.fromkeys(places) if (folder := place / "configs").is_dir()]


def is_plugin_file(file: Path) -> bool:
    """Return whether :func:`load_plugin` has run this file."""
    return file.resolve() in _contents


def _forget(contents: Mapping[Path, bytes]) -> None:
    """Drop the modules of a plugin that changed, so that they are imported again."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and Path(path).resolve() in contents:
            del sys.modules[name]


def _contents_of(item: Entry) -> dict[Path, bytes]:
    """Return the files that define an entry's class; none if it is built in or has no file."""
    path = getattr(sys.modules.get(item.target.partition(":")[0]), "__file__", None)
    if not path or not Path(path).is_file() or is_ours(Path(path)):
        return {}
    return read_with_imports(Path(path))


def check_name(kind: str, name: str) -> None:
    """Refuse a name that cannot be typed or be part of a file's name.

    Raises:
        ValueError: saying which names can.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{kind[:-1]} {name!r}: a name has up to 64 letters, digits, and . _ - between them")


def register(kind: str, name: str, plugin: type, summary: str = "", role: Role = "method", chance: bool = True) -> None:
    """Add a plugin class under a name, for ``--plugin file.py``.

    Args:
        kind: one of :data:`KINDS`.
        name: up to 64 letters, digits, and ``. _ -`` between them.
        plugin: the class.
        summary: description in a line; by default the first line of the class's docstring.
        role: for methods, see :class:`Entry`.
        chance: for metrics, see :class:`Entry`.

    Raises:
        ValueError: for an unknown kind, a malformed name, or one that is taken by another plugin.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}{nearest(kind, KINDS)}")
    check_name(kind, name)
    target = f"{plugin.__module__}:{plugin.__qualname__}"
    taken = CATALOGUE[kind].get(name)
    if taken is not None and taken.target != target:
        raise ValueError(f"{kind[:-1]} {name!r} is taken by {taken.target}")
    item = Entry(target, summary or (plugin.__doc__ or "").strip().split("\n")[0], role, chance=chance)
    contents = _contents_of(item)
    CATALOGUE[kind][name] = replace(item, code=Code.of(next(iter(contents)), contents) if contents else None)
