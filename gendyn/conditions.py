"""What a model is told besides the state and its noise level, and how it is told nothing.

A condition is an array with one row per example, or a mapping from names to such arrays. That there is nothing is
said in the array itself: by the number `num_classes` among classes, and by NaN everywhere else. The unit is the last
axis, so that a vector, a token of a sequence or a pixel of an image can be absent, and the rest of its array there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

ABSENT = np.nan


def present(value: Float[Array, "*rows size"]) -> Bool[Array, "*rows"]:
    """Which rows along the last axis are there: all but those that are NaN throughout.

    A row with some NaN among its numbers is a mistake, counts as there, and is seen in what it makes.

    >>> present(jnp.array([[1.0, 2.0], [jnp.nan, jnp.nan], [jnp.nan, 3.0]])).tolist()
    [True, False, True]
    """
    return ~jnp.isnan(value).all(-1)


def without(cond: Any, null: Any) -> Any:
    """The conditions of a batch, with `null` in their place.

    Args:
        cond: an array [batch, ...], or a mapping of such.
        null: what stands for none, shaped like one example's condition or broadcast to it. A mapping may name some of
            the conditions; the others stay as they are.

    Raises:
        ValueError: a null of something that is not among the conditions.

    >>> cond = {"label": jnp.array([3, 1]), "style": jnp.ones((2, 1))}
    >>> {name: value.tolist() for name, value in without(cond, {"label": 10}).items()}
    {'label': [10, 10], 'style': [[1.0], [1.0]]}
    """
    if not isinstance(null, Mapping):
        return jax.tree.map(_filled, cond, null)
    names = set(cond) if isinstance(cond, Mapping) else set()
    if unknown := sorted(set(null) - names):
        raise ValueError(
            f"null= names {unknown[0]!r}, which is not among the conditions ({', '.join(sorted(names)) or 'unnamed'}); "
            "give it there, or leave it out of null=."
        )
    told = {name: value for name, value in cond.items() if value is not None}
    return dict(cond) | {name: jax.tree.map(_filled, told[name], null[name]) for name in null if name in told}


def _filled(value: Any, null: Any) -> Array:
    return jnp.broadcast_to(jnp.asarray(null, value.dtype), value.shape)
