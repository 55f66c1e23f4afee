"""Frozen dataclasses that are pytrees, named paths through a tree, and the array module of an input."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """A dataclass field that is part of the tree's structure (hashed, a new value compiles again)."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(static, dataclasses.field))
def pytree(cls: type[T]) -> type[T]:
    """Decorate a class: a frozen, keyword-only dataclass whose fields are pytree children, except `static` ones.

    >>> @pytree
    ... class Scaled:
    ...     weight: float
    ...     name: str = static(default="w")
    >>> jax.tree.leaves(Scaled(weight=2.0))
    [2.0]
    """
    new = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    fields = dataclasses.fields(new)  # type: ignore[arg-type]
    return jax.tree_util.register_dataclass(
        new,
        data_fields=[f.name for f in fields if not f.metadata.get("static")],
        meta_fields=[f.name for f in fields if f.metadata.get("static")],
    )


@dataclass_transform(frozen_default=True, kw_only_default=True)
def constant(cls: type[T]) -> type[T]:
    """Decorate a class: a frozen, keyword-only dataclass without leaves; every field is static and hashable."""
    new = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    names = [f.name for f in dataclasses.fields(new)]  # type: ignore[arg-type]
    return jax.tree_util.register_dataclass(new, data_fields=[], meta_fields=names)


def paths(tree: Any, is_leaf: Any = None) -> list[tuple[str, Any]]:
    """The leaves of a tree with their names, in order.

    >>> paths({"dense": {"bias": 1, "kernel": 2}})
    [('dense/bias', 1), ('dense/kernel', 2)]
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in flat]


def namespace(*arrays: Any) -> ModuleType:
    """`jax.numpy` if any input is a jax array or tracer, else `numpy`: one formula plans in float64 and trains.

    >>> namespace(1.0, np.ones(2)).__name__
    'numpy'
    """
    return jax.numpy if any(isinstance(a, jax.Array) for a in arrays) else np


def concrete(what: str, *values: Any) -> None:
    """Refuse traced values where a table is made on the host.

    Raises:
        TypeError: if a value is a jax tracer, naming `what` must be a constant there.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values)):
        raise TypeError(
            f"{what} is decided on the host before compiling, so its inputs must be constants, but a traced value "
            "came; build it outside jit/grad/vmap and pass the result in as an argument."
        )


def expand(coefficient: Any, like: Any) -> Any:
    """A per-example value [batch] (or a scalar) with trailing axes, to broadcast against `like` [batch, *data]."""
    ndim = getattr(coefficient, "ndim", 0)
    return coefficient.reshape(coefficient.shape + (1,) * (like.ndim - ndim)) if ndim else coefficient
