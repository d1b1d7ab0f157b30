"""Pickles read as data: a stack machine over their opcodes that imports nothing and calls nothing.

A global that a pickle names stays a :class:`Name`; an instance of any class becomes an inert :class:`Object` that holds
its state. The few functions that PyTorch and NumPy need to rebuild tensors and numbers have stand-ins here that only
note their arguments. Whatever else a pickle wants called is refused, and so is every other name of Python's library.
"""

from __future__ import annotations

import pickletools
import struct
import sys
from collections.abc import Callable
from typing import IO, Any

from baselines.pickled import CALLS, Name, Object, Refused, TensorData, key_of, set_of

_HARMLESS = {f"builtins.{name}" for name in ("object", "bool", "int", "float", "complex", "str", "bytes", "list")}
_HARMLESS |= {"builtins.dict", "builtins.tuple", "builtins.set", "argparse.Namespace"}
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_TUPLE": tuple},
    **{"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set},
}
_MARK = object()


class Machine:
    """Reads one pickle.

    Args:
        persistent: what a persistent id stands for.

    Attributes:
        names: every global that the pickle names, in order.
    """

    def __init__(self, persistent: Callable[[Any], Any]) -> None:
        self.persistent = persistent
        self.names: dict[str, None] = {}
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def load(self, stream: IO[bytes]) -> Any:
        """The content of the pickle that begins here; the stream is left behind its end.

        Raises:
            Refused: naming what it wants called, or saying that it is broken.
        """
        self.stack, self.memo = [], {}
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "STOP":
                    return self.stack.pop()
                self._step(opcode.name, argument)
        except Refused:
            raise
        # A broken pickle fails in as many ways as there are opcodes.
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
            raise Refused(f"is broken ({type(error).__name__}: {str(error)[:100]})") from error
        raise Refused("ends in the middle")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in ("PROTO", "FRAME"):
            pass
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._marked()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._popped(int(name[-1]))))
        elif name == "PERSID":
            stack.append(self.persistent(argument))
        elif name == "BINPERSID":
            stack.append(self.persistent(stack.pop()))
        else:
            handler = getattr(self, f"_{name.lower()}", None)
            if handler is None:
                raise Refused(f"uses the pickle opcode {name}, which no weights need")
            handler(argument)

    def _popped(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise IndexError("stack is empty")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _marked(self) -> list[Any]:
        place = max(place for place, item in enumerate(self.stack) if item is _MARK)
        taken = self.stack[place + 1 :]
        del self.stack[place:]
        return taken

    def _name(self, module: str, name: str) -> Name:
        found = Name(_RENAMED.get(module, module), name)
        if not str(found).isprintable():
            raise Refused("names something that cannot be printed")
        self.names[str(found)] = None
        if str(found) not in CALLS and str(found) not in _HARMLESS:
            root = found.module.split(".")[0]
            if root in sys.stdlib_module_names:
                raise Refused(f"names {found}, which no weights need")
        return found

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self._name(module, name))

    def _stack_global(self, _: Any) -> None:
        module, name = self._popped(2)
        self.stack.append(self._name(_text(module), _text(name)))

    def _reduce(self, _: Any) -> None:
        function, arguments = self._popped(2)
        self.stack.append(self._called(function, arguments))

    def _called(self, function: Any, arguments: Any) -> Any:
        if function == Name("torch._tensor", "_rebuild_from_type_v2"):
            # A tensor with attributes of its own: the function that rebuilds it, and what with.
            function, _, arguments, *_ = arguments
        stand_in = CALLS.get(str(function)) if isinstance(function, Name) else None
        if stand_in is None:
            said = str(function) if isinstance(function, Name) else f"a {type(function).__name__}"
            raise Refused(f"wants {said} called, which no weights need")
        return stand_in(*arguments)

    def _newobj(self, _: Any) -> None:
        kind, _arguments = self._popped(2)
        self.stack.append(_instance(kind))

    def _newobj_ex(self, _: Any) -> None:
        kind, _arguments, _keywords = self._popped(3)
        self.stack.append(_instance(kind))

    def _obj(self, _: Any) -> None:
        kind, *arguments = self._marked()
        self.stack.append(_instance(kind, arguments))

    def _inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(_instance(self._name(module, name), self._marked()))

    def _build(self, _: Any) -> None:
        target, state = self.stack[-2], self.stack.pop()
        if isinstance(target, dict | TensorData):
            return  # attributes of an ordered dict or a tensor: weights are what counts
        if not isinstance(target, Object):
            said = target if isinstance(target, Name) else f"a {type(target).__name__}"
            raise Refused(f"wants attributes of {said} set, which no weights need")
        if target.kind == Name("numpy", "dtype"):
            target.state["order"] = state[1]
        elif isinstance(state, dict):
            target.state.update({_text(key): value for key, value in state.items()})
        elif isinstance(state, tuple) and len(state) == 2 and all(isinstance(part, dict | None) for part in state):
            for part in state:
                target.state.update({_text(key): value for key, value in (part or {}).items()})
        else:
            # A class's own way to keep its state; its code would be needed to read it.
            target.items.append(state)

    def _append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._marked())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        (target.items if isinstance(target, Object) else _a(list, target)).extend(items)

    def _setitem(self, _: Any) -> None:
        self._assign(self._popped(2))

    def _setitems(self, _: Any) -> None:
        self._assign(self._marked())

    def _assign(self, items: list[Any]) -> None:
        pairs = [(key_of(key), value) for key, value in zip(items[::2], items[1::2], strict=True)]
        target = self.stack[-1]
        if isinstance(target, Object):
            target.items.extend(pairs)
        else:
            _a(dict, target).update(pairs)

    def _additems(self, _: Any) -> None:
        items = self._marked()
        _a(set, self.stack[-1]).update(set_of(items))

    def _frozenset(self, _: Any) -> None:
        self.stack.append(set_of(self._marked()))

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def _dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append({})
        self._assign(items)


def _instance(kind: Any, arguments: Any = ()) -> Any:
    if not isinstance(kind, Name):
        raise Refused(f"makes an instance of a {type(kind).__name__}")
    if str(kind) == "collections.OrderedDict" and not arguments:
        return {}
    if str(kind) in CALLS or arguments:
        raise Refused(f"wants {kind} called, which no weights need")
    return Object(kind)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Refused(f"has a {type(value).__name__} for a name")
    return value


def _a(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise Refused(f"treats a {type(value).__name__} as a {kind.__name__}")
    return value
