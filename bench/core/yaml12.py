"""YAML of settings: the core schema of YAML 1.2, each name once, finite numbers, bounded in size.

PyYAML reads YAML 1.1, where ``010`` is 8, ``1:30`` is 90, ``yes`` is true and the last of two equal names counts. Here
``010`` is 10, ``1:30`` and ``yes`` are text (https://yaml.org/spec/1.2.2/#103-core-schema). Anchors and ``<<`` stay:
recipes use them.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from pathlib import Path
from typing import Any

import yaml

from bench.core.errors import RequestError

# Of one text; the longest of ``configs/`` has 4 KiB.
MOST_BYTES = 2**18
# With each use of an anchor counted: nine lines of nine references each would be a billion values.
MOST_VALUES = 10_000
_TAG = "tag:yaml.org,2002:"
# Section 10.3.2 of the specification: the form of a plain scalar, and the characters with which it can begin.
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)
_PATTERNS = {kind: re.compile(pattern) for kind, pattern, _ in _SCALARS}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with other scalars, which refuses content of unbounded cost or with two readings."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own name)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _wrong(f"a name must be text, found a {key.id}", key)
            if key.tag not in (_TAG + "str", _TAG + "merge"):
                raise _wrong(f"a name must be text, found {_shown(key)}; write it in quotes", key)
            if key.value in seen:
                raise _wrong(f"{_shown(key)} is there twice, first in line {seen[key.value]}", key)
            seen[key.value] = key.start_mark.line + 1
        return node

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > MOST_VALUES:
            raise _wrong(f"more than {MOST_VALUES} values, where each use of an anchor counts", node)
        return self.construct_document(node)


def _count(node: yaml.Node, known: dict[yaml.Node, int | None]) -> int:
    """Count the values in a node as if nothing were shared."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if node not in known:
        known[node] = None
        pairs = isinstance(node, yaml.MappingNode)
        inner = [part for item in node.value for part in (item if pairs else (item,))]
        known[node] = 1 + sum(_count(part, known) for part in inner)
    total = known[node]
    if total is None:
        raise _wrong("an anchor is used inside itself", node)
    return total


def _wrong(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _shown(node: yaml.Node) -> str:
    """Return a scalar as it was written, cut; another node by its kind."""
    return repr(node.value[:40]) if isinstance(node, yaml.ScalarNode) else "a list or mapping"


def _text(loader: _Loader, node: Any) -> str:
    text = loader.construct_scalar(node)
    odd = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"), None)
    if odd is not None:
        raise _wrong(f"control character {odd!r} in a text", node)
    return str(text)


def _matching(loader: _Loader, node: Any, kind: str) -> str:
    # An explicit tag (!!int yes) comes without the pattern.
    text = str(loader.construct_scalar(node))
    if not _PATTERNS[kind].fullmatch(text):
        raise _wrong(f"{_shown(node)} is no {kind}", node)
    return text


def _constant(loader: _Loader, node: Any) -> bool | None:
    kind = node.tag.removeprefix(_TAG)
    text = _matching(loader, node, kind)
    return None if kind == "null" else text.lower() == "true"


def _int(loader: _Loader, node: Any) -> int:
    text = _matching(loader, node, "int")
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    # Shorter than Python's own limit; arrays and files hold 64 bits.
    value = int(text, base) if len(text) <= 400 else 2**64
    if not -(2**63) <= value < 2**63:
        raise _wrong(f"a whole number of {len(text)} characters is too large", node)
    return value


def _float(loader: _Loader, node: Any) -> float:
    text = _matching(loader, node, "float").lower()
    value = math.nan if "n" in text else float(text)
    if not math.isfinite(value):
        raise _wrong(f"{_shown(node)} is no finite number", node)
    return value


def _unknown(_loader: _Loader, node: Any) -> None:
    raise _wrong(f"unknown tag {node.tag[:60]!r}", node)


for _kind, _, _first in _SCALARS:
    _pattern = _PATTERNS[_kind]
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern.pattern})\Z"), _first)
_Loader.yaml_constructors = {
    _TAG + "null": _constant,
    _TAG + "bool": _constant,
    _TAG + "int": _int,
    _TAG + "float": _float,
    _TAG + "str": _text,
    _TAG + "merge": _text,  # if it is no key
    _TAG + "seq": yaml.SafeLoader.construct_yaml_seq,
    _TAG + "map": yaml.SafeLoader.construct_yaml_map,
    None: _unknown,
}


def parse(text: str, what: str) -> Any:
    """Return the value of a text, of one value or of a whole file; ``what`` is its origin, for the message.

    Raises:
        RequestError: one line with the place and the reason.

    >>> parse("[010, 0o10, 1:30, yes, 1e-3, true]", "--set")
    [10, 8, '1:30', 'yes', 0.001, True]
    """
    if len(text) > MOST_BYTES:
        raise RequestError(f"{what}: {len(text)} characters; settings may have {MOST_BYTES}")
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.reader.ReaderError as error:
        raise RequestError(f"{what}: not valid YAML (character {error.character:#06x} is not allowed)") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{what}:{mark.line + 1}" if mark and "\n" in text.strip() else what
        raise RequestError(f"{where}: not valid YAML ({_line(error.problem or error.context)})") from error
    except RecursionError as error:
        raise RequestError(f"{what}: not valid YAML (too many levels)") from error
    except (ValueError, OverflowError) as error:  # of an escape such as "\U00110000"
        raise RequestError(f"{what}: not valid YAML ({_line(error)})") from error
    finally:
        if loader is not None:
            loader.dispose()


def read_mapping(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, a new copy; a file that has not changed since the last call is not read again.

    Raises:
        RequestError: naming the file and line, if it cannot be read, is no YAML, or no mapping.
    """
    try:
        about = file.stat()
        found = _parsed(file, about.st_ino, about.st_mtime_ns, about.st_ctime_ns, about.st_size)
    except OSError as error:
        raise RequestError(f"{file}: cannot be read ({error.strerror})") from error
    return copied(found)  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=256)
def _parsed(file: Path, *about: int) -> dict[str, Any]:
    if about[-1] > MOST_BYTES:
        raise RequestError(f"{file}: {about[-1]} bytes; a file of settings may have {MOST_BYTES}")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    content = parse(text, str(file))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RequestError(f"{file}: expected names and values, found a {type(content).__name__}")
    return content


def copied(value: Any) -> Any:
    """Return a copy of nested dicts and lists; the values in them do not change."""
    if isinstance(value, dict):
        return {name: copied(item) for name, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]
