"""Conditions that are left out at random, so that one network learns to do with and without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from gendyn.conditions import without
from gendyn.tree import expand

Drop = float | Mapping[str, float]
"""A probability for the condition as a whole, or one for each of its names, dropped independently."""


def check_drop(drop: Drop, null: Any) -> None:
    """Refuse what is no probability, or dropping without saying what comes instead."""
    rates = drop.values() if isinstance(drop, Mapping) else [drop]
    if wrong := [rate for rate in rates if not 0 <= rate <= 1]:
        raise ValueError(f"drop is a probability; got {wrong[0]}.")
    if any(rates) and null is None:
        raise ValueError("drop > 0 needs null=, the condition that stands for none (for classes: num_classes).")
    if isinstance(drop, Mapping) and (missing := sorted(set(drop) - set(null if isinstance(null, Mapping) else ()))):
        raise ValueError(f"drop names {missing[0]!r}, but null= does not say what stands for it; name it there too.")


def dropped(key: PRNGKeyArray, cond: Any, n: int, drop: Drop, null: Any) -> Any:
    """The conditions of n examples, each replaced by `null` with probability `drop`.

    Classifier-free guidance: Ho and Salimans 2022, arXiv:2207.12598. With a rate for each name they are dropped
    independently, so that guidance may leave some and keep others (Brooks et al. 2022, arXiv:2211.09800).
    """
    if cond is None or drop == 0.0:
        return cond
    if isinstance(drop, Mapping):
        for name, own in zip(sorted(drop), jax.random.split(key, len(drop))):
            cond = dropped(own, cond, n, drop[name], {name: null[name]})
        return cond
    mask = jax.random.bernoulli(key, drop, (n,))
    return jax.tree.map(lambda none, c: jnp.where(expand(mask, c), none, c), without(cond, null), cond)
