"""The kinds of things that a network is told, as values.

    kind     one example's array      how it reaches the network
    Classes  [], an integer           a row of a table, added to the conditioning vector
    Vector   [size]                   projected, added to the conditioning vector
    Tokens   [length, size]           projected; every block attends to them
    Image    [*grid, channels]        beside the data's channels, on the data's grid

A network takes them by name, `conditions={"text": Tokens(77, 512)}`, and then `cond={"text": ...}`; `num_classes=` is
the condition "label". A name that is left out, and what is absent in an array (`gendyn.conditions`), is nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array

from gendyn.conditions import ABSENT


@dataclass(frozen=True)
class Classes:
    """One of `count` classes; number `count` is none."""

    count: int
    dtype = "int32"

    @property
    def null(self) -> int:
        return self.count

    def shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """Of one example's array, where its data have this shape."""
        return ()


@dataclass(frozen=True)
class Vector:
    """Numbers of order one: an embedding, or a few continuous attributes. A learned vector stands for an absent one."""

    size: int
    dtype = "float32"
    null = ABSENT

    def shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """Of one example's array, where its data have this shape."""
        return (self.size,)


@dataclass(frozen=True)
class Tokens:
    """A sequence, such as the output of a text encoder, that the network's blocks attend to.

    Shorter sequences are filled up with absent tokens, which nothing attends to. A learned token is always there, and
    alone where the sequence is absent.

    Args:
        length, size: tokens, and numbers of each.
        positions: "learned" adds a vector of its own to every place; None leaves a set without order, for sequences
            that know their order already.
    """

    length: int
    size: int
    positions: Literal["learned"] | None = None
    dtype = "float32"
    null = ABSENT

    def shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """Of one example's array, where its data have this shape."""
        return (self.length, self.size)


@dataclass(frozen=True)
class Image:
    """An image (or series, or volume) on the grid of the data. Absent pixels are zero."""

    channels: int
    dtype = "float32"
    null = ABSENT

    def shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """Of one example's array, where its data have this shape."""
        return (*data[:-1], self.channels)


Condition = Classes | Vector | Tokens | Image
Conditions = Mapping[str, Condition]

LABEL = "label"
"""The name of the classes that `num_classes` announces."""


def null(conditions: Conditions, num_classes: int | None = None) -> Any:
    """The condition that stands for none, for an objective's `null` and for `gd.control.cfg`.

    >>> null({"style": Vector(4)}, num_classes=10)
    {'label': 10, 'style': nan}
    >>> null({}, num_classes=10)
    10
    """
    own = {name: kind.null for name, kind in conditions.items()}
    if not own:
        return num_classes
    return own if num_classes is None else {LABEL: num_classes, **own}


def named(cond: Any, conditions: Conditions) -> dict[str, Any]:
    """What a network was told, by name; a bare array is the classes'.

    Raises:
        ValueError: a name that the network was not built with.
    """
    if not isinstance(cond, Mapping):
        return {} if cond is None else {LABEL: cond}
    known = {LABEL, *conditions}
    if unknown := sorted(set(cond) - known):
        raise ValueError(
            f"cond names {unknown[0]!r}, but the network was built for {', '.join(sorted(known))}; "
            "add it to conditions=, or leave it out."
        )
    return {name: value for name, value in cond.items() if value is not None}


def checked(name: str, value: Any, shape: tuple[int, ...], batch: int) -> Array:
    """A condition as a floating array [batch or 1, *shape].

    Raises:
        ValueError: for any other shape.
        TypeError: for integers.
    """
    value = jnp.asarray(value)
    if value.shape not in ((batch, *shape), (1, *shape)):
        raise ValueError(f"the condition {name!r} is [{batch}, {', '.join(map(str, shape))}], got {list(value.shape)}.")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"the condition {name!r} holds floating numbers, got {value.dtype}; cast it.")
    return value


def has_tokens(conditions: Conditions | None) -> bool:
    """Whether there is something to attend to."""
    return any(isinstance(kind, Tokens) for kind in (conditions or {}).values())


def image_channels(conditions: Conditions | None) -> int:
    """How many channels all images among the conditions have."""
    return sum(kind.channels for kind in (conditions or {}).values() if isinstance(kind, Image))
