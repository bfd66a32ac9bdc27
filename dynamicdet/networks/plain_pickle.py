"""Reads pickles of plain values without running anything that they name.

`pickletools` splits a pickle into operations; this file carries out those that torch.save writes. Python's own
unpickler would also import and call what a pickle names, reserve memory for any memo number, and hash nested keys.
"""

from __future__ import annotations

import pickletools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, BinaryIO

from dynamicdet.text import printable

_MOST_OPERATIONS = 500_000  # a training state of the largest network has half as many
_LONGEST_NAME = 200  # characters
_LONGEST_INTEGER = 16  # bytes; larger ones cannot be printed

_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_ARGUMENTS = {"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "LONG1"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CONTAINERS: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}


class PickleError(Exception):
    """A pickle that is damaged or not plain; the message says which, as the rest of a sentence about the file."""


class UnknownNameError(PickleError):
    """A pickle that names something that is not accepted; `name` is printable, such as "os.system"."""

    def __init__(self, name: str) -> None:
        super().__init__(f"needs code to load ({name})")
        self.name = name


def read_pickle(file: BinaryIO, *, known: Mapping[str, Any], persistent: Callable[[Any], Any]) -> Any:
    """The value of the pickle that begins at the file's position; the position is then behind it.

    `known` has what the pickle may name ("collections OrderedDict"): constants, and functions that it may call.
    `persistent` turns a persistent id into a value. Raises PickleError.
    """
    machine = _Machine(known, persistent)
    operations = _operations(file)
    try:
        for name, argument in operations:
            try:
                machine.run(name, argument)
            except _OtherOperationError:
                _refuse_code([(name, argument)], operations)
                raise
        return machine.result()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise PickleError("is damaged: its pickle cannot be read") from error


def _operations(file: BinaryIO) -> Iterator[tuple[str, Any]]:
    for number, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if number >= _MOST_OPERATIONS:
            raise PickleError(f"has a pickle of more than {_MOST_OPERATIONS:,} operations")
        yield operation.name, argument


def _refuse_code(first: Iterable[tuple[str, Any]], rest: Iterator[tuple[str, Any]]) -> None:
    """Raise UnknownNameError for the first thing that the rest of a refused pickle names, if it names one."""
    texts = deque[str](maxlen=2)
    for name, argument in chain(first, rest):
        if name in ("GLOBAL", "INST"):
            raise UnknownNameError(printable(str(argument).replace(" ", "."), limit=100))
        if name == "STACK_GLOBAL" and len(texts) == 2:
            raise UnknownNameError(printable(".".join(texts), limit=100))
        if isinstance(argument, str):
            texts.append(argument[:_LONGEST_NAME])


class _OtherOperationError(PickleError):
    """An operation that torch.save does not write."""


class _Machine:
    """The stack and the memo of a pickle. Wrong operations raise the errors that `read_pickle` turns into its own."""

    def __init__(self, known: Mapping[str, Any], persistent: Callable[[Any], Any]) -> None:
        self._known = known
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []  # where the values of a tuple, list or dictionary begin
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        (value,) = self._stack
        return value

    def run(self, name: str, argument: Any) -> None:
        push, pop = self._stack.append, self._stack.pop
        if name in _VALUES:
            push(_VALUES[name])
        elif name in _ARGUMENTS:
            push(_short(argument))
        elif name in _CONTAINERS:
            push(_CONTAINERS[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            self._stack[-count:] = [tuple(self._top(count))]
        elif name == "MARK":
            self._marks.append(len(self._stack))
        elif name == "TUPLE":
            push(tuple(self._marked()))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self._stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            push(self._memo[argument])
        elif name in ("SETITEM", "SETITEMS"):
            pairs = self._marked() if name == "SETITEMS" else [pop(), pop()][::-1]
            _set(self._stack[-1], pairs)
        elif name in ("APPEND", "APPENDS"):
            values = self._marked() if name == "APPENDS" else [pop()]
            _checked(self._stack[-1], list).extend(values)
        elif name == "GLOBAL":
            push(self._named(argument))
        elif name == "BINPERSID":
            push(self._persistent(pop()))
        elif name == "REDUCE":
            arguments, function = pop(), pop()
            push(function(*_checked(arguments, tuple)))
        elif name == "BUILD":
            pop()  # attributes of a dictionary, such as the versions of a state dict's layers
            _checked(self._stack[-1], dict)
        elif name not in ("PROTO", "STOP"):
            raise _OtherOperationError("is not a file of plain tensors from torch.save")

    def _named(self, name: str) -> Any:
        if name not in self._known:
            raise UnknownNameError(printable(name.replace(" ", "."), limit=100))
        return self._known[name]

    def _top(self, count: int) -> list[Any]:
        values = self._stack[-count:]
        if len(values) < count:
            raise IndexError("the stack has too few values")
        return values

    def _marked(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values


def _short(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > 8 * _LONGEST_INTEGER:
        raise ValueError("the integer is too long")
    return value


def _checked(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected a {kind.__name__}")
    return value


def _set(target: Any, pairs: list[Any]) -> None:
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if not isinstance(key, str | int):  # the hash of nested tuples could take for ever
            raise TypeError("a key is neither a text nor a number")
        _checked(target, dict)[key] = value
