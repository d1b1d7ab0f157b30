"""Inert values of a safely read pickle, and stand-ins for the few functions that it may call."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_LONGEST_KEY = 16


class Refused(Exception):
    """Refusal of a pickle that needs more than weights do; nothing of it was run."""


@dataclass(frozen=True)
class Name:
    """Name of a class or function in the pickle."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


# No generated representation: a few bytes of a pickle describe a value that would take for ever to write out.
@dataclass(eq=False, repr=False)
class Object:
    """Instance of a class that was not imported: its attributes, and the items appended to it or set on it."""

    kind: Name
    state: dict[str, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)


@dataclass(frozen=True, eq=False, repr=False)
class TensorData:
    """Tensor as its pickle describes it: a window on a storage that is elsewhere in the file."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


def key_of(value: Any) -> Any:
    """Return a value that may be a key of a dict or a member of a set.

    Raises:
        Refused: if it may not.
    """
    # Hashing a tuple of tuples of tuples may take for ever; keys of weights are names and numbers.
    if (
        isinstance(value, tuple)
        and len(value) <= _LONGEST_KEY
        and all(isinstance(item, str | int | float | bytes | None) for item in value)
    ):
        return value
    if isinstance(value, str | int | float | bytes | Name | Object | None):
        return value
    raise Refused(f"has a {type(value).__name__} for a key")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorData:
    return TensorData(storage, offset, size, stride)


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    # Python 3 writes bytes this way in protocols that Python 2 can read.
    if encoding not in ("latin1", "utf-8"):
        raise Refused("encodes text in a way that no weights need")
    return text.encode(encoding)


def _number(dtype: Any, raw: bytes) -> int | float | bool:
    code = dtype.state["code"]
    if not re.fullmatch(r"[fiub][1248]", code):
        raise Refused(f"holds a NumPy number of type {code[:20]!r}")
    letter = {"f": {2: "e", 4: "f", 8: "d"}, "b": {1: "?"}}.get(code[0], {1: "b", 2: "h", 4: "i", 8: "q"})[int(code[1])]
    order = ">" if dtype.state.get("order") == ">" else "<"
    number: int | float | bool = struct.unpack(order + (letter.upper() if code[0] == "u" else letter), raw)[0]
    return number


def _inert(kind: str) -> Callable[..., Object]:
    module, _, name = kind.rpartition(".")
    return lambda *arguments: Object(Name(module, name), items=list(arguments))


def set_of(items: Any = ()) -> set[Any]:
    """Return a set of members that :func:`key_of` accepts."""
    return {key_of(item) for item in items}


def dict_of(pairs: Any = ()) -> dict[Any, Any]:
    """Return a dict of items whose keys :func:`key_of` accepts."""
    return {key_of(key): value for key, value in pairs}


_FIRST: Callable[..., Any] = lambda value, *_: value  # noqa: E731 - one of a table of small stand-ins
_BESIDE = (
    *(f"datetime.{kind}" for kind in ("datetime", "date", "time", "timedelta", "timezone")),
    *(f"pathlib{module}.{kind}Path" for module in ("", "._local") for kind in ("Posix", "Windows", "PurePosix")),
    *("collections.Counter", "builtins.complex", "torch.serialization._get_layout"),
)
# Functions that may be called, with their stand-ins.
CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": dict_of,
    "collections.defaultdict": lambda *_: {},
    "builtins.set": set_of,
    "builtins.frozenset": set_of,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": lambda kind, *_: Object(kind),
    "torch.Size": lambda sizes: tuple(sizes),
    "torch.device": lambda kind, *_: kind,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _FIRST,
    "torch._utils._rebuild_parameter_with_state": _FIRST,
    # Tensors without numbers in the file: no supported network has them, and they take no memory.
    **{
        f"torch._utils._rebuild_{name}": _inert(f"torch.{name}") for name in ("sparse_tensor", "meta_tensor_no_storage")
    },
    # Values that training scripts write beside the weights: times, folders, milestones.
    **{name: _inert(name) for name in _BESIDE},
    # Modules of torch before 1.3 kept the answer of this function.
    "torch.nn.backends.thnn._get_thnn_function_backend": _inert("torch.nn.backends.thnn.THNNFunctionBackend"),
    "numpy.dtype": lambda code, *_: Object(Name("numpy", "dtype"), {"code": code}),
    **{
        f"numpy.{core}.multiarray.{name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in {"scalar": _number, "_reconstruct": _inert("numpy.ndarray")}.items()
    },
}
