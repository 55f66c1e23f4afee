"""What pickles are made into: plain containers, names, and stand-ins without behaviour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gendyn.importing.limits import Limits, Refused

KEYS = (str, int, float, bytes, type(None))
"""Keys of dicts and members of sets. Not tuples: hashing nested ones takes exponential time."""


@dataclass(frozen=True)
class Name:
    """A global that a pickle names; never imported."""

    full: str

    @property
    def last(self) -> str:
        return self.full.rsplit(".", 1)[-1]


@dataclass(eq=False)
class Inert:
    """Stands in for an object of a class: what it was made of, and no behaviour."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = field(default=None, repr=False)


def key(value: Any) -> Any:
    """A value that may be the key of a dict or a member of a set."""
    if not isinstance(value, KEYS):
        raise Refused(f"the pickle has a {type(value).__name__} for a key; only texts and numbers are taken.")
    return value


def check(value: Any, limits: Limits) -> None:
    """Refuse values that contain themselves, nest deeply, or grow beyond bounds when written out.

    Sharing is what makes a small pickle large: 40 tuples, each twice the one before, spell 2^40 leaves. The size of
    each container is therefore that of its parts, computed once per container.
    """
    sizes: dict[int, int] = {}
    open_: set[int] = set()
    path: list[tuple[Any, Iterator[Any]]] = []

    def enter(node: Any) -> None:
        if id(node) in open_:
            raise Refused("the pickle contains a structure that contains itself.")
        if len(path) >= limits.depth:
            raise Refused(f"the pickle nests more than {limits.depth} levels deep.")
        open_.add(id(node))
        sizes[id(node)] = 1
        path.append((node, iter(parts(node))))

    if is_container(value):
        enter(value)
    while path:
        node, rest = path[-1]
        for part in rest:
            if is_container(part) and (id(part) in open_ or id(part) not in sizes):
                enter(part)
                break
            sizes[id(node)] += sizes.get(id(part), 1) if is_container(part) else 1
            if sizes[id(node)] > limits.nodes:
                raise Refused(f"the pickle spells more than {limits.nodes:,} values by repeating itself.")
        else:
            path.pop()
            open_.discard(id(node))
            if path:
                sizes[id(path[-1][0])] += sizes[id(node)]


def is_container(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple, set, frozenset, Inert))


def parts(value: Any) -> list[Any]:
    """What a container holds (keys are never containers)."""
    if isinstance(value, dict):
        return list(value.values())
    return [value.args, value.state] if isinstance(value, Inert) else list(value)
