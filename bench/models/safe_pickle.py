"""Safe unpickler: a stack machine over a pickle's opcodes that imports nothing and calls nothing.

A global of a pickle stays a :class:`Name`; an instance of any class becomes an inert :class:`Object` with its state.
The few functions that PyTorch and NumPy need to rebuild tensors and numbers have stand-ins here that only note their
arguments. Calls of anything else are refused, and so is every other name of Python's library.

Memory and time are paid from a budget in proportion to the file's size. Every opcode has a price in bytes, copies of
containers pay for each item, and numbers as keys pay for the collisions that a pickle may choose them for.
"""

from __future__ import annotations

import pickletools
import struct
import sys
from collections.abc import Callable, Iterable
from typing import IO, Any

from bench.models.pickle_values import CALLS, Name, Object, Refused, TensorData, dict_of, key_of, set_of

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
_LEAST_BUDGET = 2**26
_BUDGET_PER_BYTE = 8
# Bytes that CPython allocates for the value of an opcode, with its slot on the stack.
_PRICE = 48
_PRICES = {
    **{"EMPTY_LIST": 64, "EMPTY_DICT": 72, "EMPTY_SET": 224, "MARK": 96, "LIST": 64, "DICT": 256, "FROZENSET": 224},
    **dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"), 96),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), 128),
    **dict.fromkeys(("REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "PERSID", "BINPERSID"), 400),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), 250),
}
# Price of an item of a dict, the most expensive container.
_PRICE_OF_ITEM = 100
_MOST_BITS = 512
_LONGEST_NAME = 200
_MOST_ARGUMENTS = 16
_ASIDE = 2**16


class Machine:
    """Reader of the pickles of one file.

    Args:
        persistent: function from a persistent id to its value.
        size: size of the file in bytes, to which memory and time are in proportion.

    Attributes:
        names: every global that the pickles name, in order.
        tensors: all tensors that they describe.
        budget: bytes left to pay for opcodes.
    """

    def __init__(self, persistent: Callable[[Any], Any], size: int) -> None:
        self.persistent = persistent
        self.names: dict[str, None] = {}
        self.tensors: list[TensorData] = []
        self.budget = _LEAST_BUDGET + _BUDGET_PER_BYTE * size
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """Stacks beneath each mark, as in Python's reader, so that the last mark is not searched for."""
        self.memo: list[Any] = []
        self._size = size

    def load(self, stream: IO[bytes]) -> Any:
        """Return the content of the pickle that begins here; the stream is left behind its end.

        Raises:
            Refused: if it calls anything without a stand-in, is broken or asks for more than its budget.
        """
        self.stack, self.below, self.memo = [], [], []
        try:
            for opcode, argument, _ in pickletools.genops(_Bounded(stream, self._size)):  # type: ignore[arg-type]
                name = opcode.name
                self._pay(_PRICES.get(name, _PRICE))
                if name == "STOP":
                    return self.stack.pop()
                self._step(name, argument)
        except Refused:
            raise
        # A broken pickle fails in as many ways as there are opcodes.
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
            raise Refused(f"is broken ({type(error).__name__}: {str(error)[:100]})") from error
        raise Refused("ends in the middle")

    def _pay(self, price: int) -> None:
        self.budget -= price
        if self.budget < 0:
            raise Refused("asks for more memory and time than a file of its size needs")

    def _pay_keys(self, keys: Iterable[Any], others: int = 0) -> None:
        # Hashes of text are salted. Those of numbers are known: n keys can be chosen so that each is compared with all
        # others in the dict or set that it comes into.
        numbers = sum(not isinstance(key, str | bytes | Name | Object) for key in keys)
        self._pay(numbers * (numbers + others))

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            # The hash of a number is worked out each time, over all its digits.
            if isinstance(argument, int) and argument.bit_length() > _MOST_BITS:
                raise Refused(f"holds a number of {argument.bit_length():,} bits, which no weights need")
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in ("PROTO", "FRAME"):
            pass
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._remember(argument, stack[-1])
        elif name == "MEMOIZE":
            self.memo.append(stack[-1])
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[_checked_index(argument)])
        elif name == "MARK":
            self.below.append(stack)
            self.stack = []
        elif name == "POP":
            if stack:
                stack.pop()
            else:
                self._marked()
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

    def _remember(self, index: int, value: Any) -> None:
        # Python numbers them consecutively. Numbers chosen by the pickle could be made to collide in a dict.
        if index == 1 and not self.memo:
            self.memo.append(None)  # Python 2 counts from 1
        if index == len(self.memo):
            self.memo.append(value)
        else:
            self.memo[_checked_index(index)] = value

    def _popped(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise IndexError("stack is empty")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _marked(self) -> list[Any]:
        taken, self.stack = self.stack, self.below.pop()
        return taken

    def _name(self, module: str, name: str) -> Name:
        if len(module) + len(name) > _LONGEST_NAME:
            raise Refused("has a name that is too long for one")
        full = Name(_RENAMED.get(module, module), name)
        if not str(full).isprintable():
            raise Refused("names something that cannot be printed")
        self.names[str(full)] = None
        if str(full) not in CALLS and str(full) not in _HARMLESS:
            root = full.module.split(".")[0]
            if root in sys.stdlib_module_names:
                raise Refused(f"names {full}, which no weights need")
        return full

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
            # A tensor with attributes: the function that rebuilds it, and its arguments.
            function, _, arguments, *_ = _arguments(arguments)
        stand_in = CALLS.get(str(function)) if isinstance(function, Name) else None
        if stand_in is None:
            named = str(function) if isinstance(function, Name) else f"a {type(function).__name__}"
            raise Refused(f"wants {named} called, which no weights need")
        for argument in _arguments(arguments):
            # The same argument may be used again and again, and copied each time.
            if isinstance(argument, str | bytes | bytearray):
                self._pay(len(argument))
            elif isinstance(argument, list | tuple | dict | set):
                self._pay(_PRICE_OF_ITEM * len(argument))
                pairs = (item[0] for item in argument if isinstance(item, list | tuple) and item)
                self._pay_keys(pairs if stand_in is dict_of else argument)
        made = stand_in(*arguments)
        if isinstance(made, TensorData):
            self.tensors.append(made)
        return made

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
        arguments = self._marked()
        self.stack.append(_instance(self._name(module, name), arguments))

    def _build(self, _: Any) -> None:
        target, state = self.stack[-2], self.stack.pop()
        for part in (state, *(state if isinstance(state, tuple) and len(state) == 2 else ())):
            self._pay(_PRICE_OF_ITEM * len(part) if isinstance(part, dict | tuple | list) else 0)
        if isinstance(target, dict | TensorData):
            return  # attributes of an ordered dict or a tensor are no weights
        if not isinstance(target, Object):
            named = target if isinstance(target, Name) else f"a {type(target).__name__}"
            raise Refused(f"wants attributes of {named} set, which no weights need")
        if target.kind == Name("numpy", "dtype"):
            target.state["order"] = state[1]
        elif isinstance(state, dict):
            _update(target, state)
        elif isinstance(state, tuple) and len(state) == 2 and all(isinstance(part, dict | None) for part in state):
            for part in state:
                _update(target, part or {})
        else:
            # State in a form of the class, whose code would be needed to read it.
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
        self._pay(_PRICE_OF_ITEM * len(pairs))
        container = target.items if isinstance(target, Object) else _a(dict, target)
        self._pay_keys((key for key, _ in pairs), len(container))
        (container.extend if isinstance(target, Object) else container.update)(pairs)

    def _additems(self, _: Any) -> None:
        items, target = self._marked(), self.stack[-1]
        self._pay_keys(items, len(_a(set, target)))
        target.update(set_of(items))

    def _frozenset(self, _: Any) -> None:
        items = self._marked()
        self._pay_keys(items)
        self.stack.append(set_of(items))

    def _tuple(self, _: Any) -> None:
        items = self._marked()
        self.stack.append(tuple(items))

    def _list(self, _: Any) -> None:
        items = self._marked()
        self.stack.append(items)

    def _dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append({})
        self._assign(items)


class _Bounded:
    """Stream that reads no more than the file's size: Python allocates memory for all bytes that are asked for."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._size = stream, size
        self.readline, self.tell = stream.readline, stream.tell

    def read(self, count: int) -> bytes:
        """Read up to ``count`` bytes."""
        return self._stream.read(count if count < _ASIDE else min(count, self._size))


def _arguments(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or len(value) > _MOST_ARGUMENTS:
        raise Refused("calls something with arguments that no weights need")
    return value


def _instance(kind: Any, arguments: Any = ()) -> Any:
    if not isinstance(kind, Name):
        raise Refused(f"makes an instance of a {type(kind).__name__}")
    if str(kind) == "collections.OrderedDict" and not arguments:
        return {}
    if str(kind) in CALLS or arguments:
        raise Refused(f"wants {kind} called, which no weights need")
    return Object(kind)


def _update(target: Object, state: dict[Any, Any]) -> None:
    target.state.update({_text(key): value for key, value in state.items()})


def _checked_index(number: int) -> int:
    if number < 0:
        raise Refused("is broken (it counts from the end)")
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Refused(f"has a {type(value).__name__} for a name")
    return value


def _a(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise Refused(f"treats a {type(value).__name__} as a {kind.__name__}")
    return value
