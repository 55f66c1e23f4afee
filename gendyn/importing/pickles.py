"""Pickles as data: a machine for their operations that has no access to Python.

Python's unpickler imports what a pickle names and calls it. This machine reads the operations with the standard
library's disassembler (`pickletools`) and carries out those that build values; a *name* stays a name, and what would
be a call looks the name up in a table of our own (`globals_`). There is no path from a file to code:

    operation          here
    GLOBAL             a `Name`, if the table has it; else refused, by name
    REDUCE, NEWOBJ     the table's function of the arguments
    BUILD              stored as the state of an inert stand-in, or dropped (attributes of a dict)
    BINPERSID          the caller's function of the identifier
    EXT, INST, ...     refused
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from gendyn.importing.limits import Limits, Refused
from gendyn.importing.values import Inert, Name, key

Globals = Callable[[str], Callable[..., Any] | None]
"""A global's full name -> what a call of it makes here; None refuses it."""


class Bounded:
    """A stream that never asks for more bytes than are left, whatever length a file declares."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream, self.size = stream, size

    def read(self, count: int) -> bytes:
        return self.stream.read(max(0, min(count, self.size - self.stream.tell())))

    def readline(self) -> bytes:
        return self.stream.readline(self.size - self.stream.tell())

    def tell(self) -> int:
        return self.stream.tell()


def load(stream: Bounded, globals_: Globals, persistent: Callable[[Any], Any], limits: Limits) -> Any:
    """The value of the pickle that starts here; the stream is left behind it.

    Args:
        globals_: what names may appear, and what calling them makes.
        persistent: what persistent identifiers stand for.

    Raises:
        Refused: whatever the reason.
    """
    machine = Machine(globals_, persistent)
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
            if count >= limits.operations:
                raise Refused(f"the pickle has more than {limits.operations:,} operations.")
            machine.step(operation.name, argument)
        return machine.result
    except Refused:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeError, struct.error, EOFError) as error:
        raise Refused(f"the pickle is damaged or cut short ({type(error).__name__}: {str(error)[:100]}).") from None


class Machine:
    """Stack, marks and memo of one pickle."""

    def __init__(self, globals_: Globals, persistent: Callable[[Any], Any]) -> None:
        self.globals_, self.persistent = globals_, persistent
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None

    def step(self, name: str, argument: Any) -> None:
        if name in PUSHED:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif (act := getattr(self, f"_{name.lower()}", None)) is not None:
            act(argument)
        elif name not in IGNORED:
            raise Refused(f"the pickle uses the operation {name}, which is not for data.")

    # --- structure

    def _stop(self, _: Any) -> None:
        self.result = self.stack.pop()

    def _mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def _items(self) -> list[Any]:
        """What has come since the last mark."""
        items, self.stack = self.stack, self.marked.pop()
        return items

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._items()

    def _pop_mark(self, _: Any) -> None:
        self._items()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _binget = _long_binget = _get

    # --- containers

    def _tuple(self, _: Any) -> None:
        items = self._items()
        self.stack.append(tuple(items))

    def _last(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("stack underflow")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _tuple1(self, _: Any) -> None:
        self._last(1)

    def _tuple2(self, _: Any) -> None:
        self._last(2)

    def _tuple3(self, _: Any) -> None:
        self._last(3)

    def _list(self, _: Any) -> None:
        items = self._items()
        self.stack.append(items)

    def _dict(self, _: Any) -> None:
        items = self._items()
        self.stack.append({})
        self._fill(items)

    def _frozenset(self, _: Any) -> None:
        items = self._items()
        self.stack.append(frozenset(key(item) for item in items))

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        self._top(list, "appends to").append(item)

    def _appends(self, _: Any) -> None:
        items = self._items()
        self._top(list, "appends to").extend(items)

    def _additems(self, _: Any) -> None:
        items = self._items()
        self._top(set, "adds to").update(key(item) for item in items)

    def _setitem(self, _: Any) -> None:
        value, name = self.stack.pop(), self.stack.pop()
        self._fill([name, value])

    def _setitems(self, _: Any) -> None:
        items = self._items()
        self._fill(items)

    def _fill(self, items: list[Any]) -> None:
        target = self._top(dict, "sets items of")
        for name, value in zip(items[::2], items[1::2], strict=True):
            target[key(name)] = value

    def _top(self, kind: type, act: str) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise Refused(f"the pickle {act} a {type(self.stack[-1]).__name__}, which is no {kind.__name__}.")
        return self.stack[-1]

    # --- names and what would be calls

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._name(module, name)

    def _name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Refused("the pickle names a global by something that is no text.")
        full = f"{module}.{name}"
        if self.globals_(full) is None:
            raise Refused(f"the pickle names {full[:200]!r}, which no checkpoint of this kind needs; nothing was run.")
        self.stack.append(Name(full))

    def _call(self, callee: Any, args: Any) -> None:
        if not isinstance(callee, Name):
            raise Refused(f"the pickle calls a {type(callee).__name__}, which is no name; nothing was run.")
        if not isinstance(args, tuple):
            raise Refused(f"the pickle calls {callee.full} with a {type(args).__name__} for arguments.")
        make = self.globals_(callee.full)
        assert make is not None
        self.stack.append(make(*args))

    def _reduce(self, _: Any) -> None:
        args, callee = self.stack.pop(), self.stack.pop()
        self._call(callee, args)

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        options, args, callee = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if options:
            raise Refused("the pickle makes an object with named arguments, which no checkpoint of this kind does.")
        self._call(callee, args)

    def _build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, dict):  # attributes of a dict (a state dict's versions) say nothing about tensors
            raise Refused(f"the pickle sets the state of a {type(target).__name__}, which has none.")

    def _binpersid(self, _: Any) -> None:
        self.stack.append(self.persistent(self.stack.pop()))


PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip
"""Operations that push their own argument."""

CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
"""Operations that push something new."""

IGNORED = {"PROTO", "FRAME"}
