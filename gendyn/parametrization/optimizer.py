"""One optax chain with a multiplier per parameter."""

from __future__ import annotations

from typing import Any

import jax
import optax

from gendyn.parametrization.rules import OPTIMIZERS
from gendyn.parametrization.scalings import SCALINGS
from gendyn.parametrization.table import ParamTable


def optimizer(
    table: ParamTable,
    inner: optax.GradientTransformation | None = None,
    *,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: float = 0.0,
    clip: float | None = None,
) -> optax.GradientTransformation:
    """p <- p - rate(t) rate_p (inner(gradient) + weight_decay decay_p p), with rate_p and decay_p of the table.

    eps of Adam's family gets its multiplier by scaling: these optimisers do not see the scale of a gradient but for
    eps, so a gradient divided by eps_p is a step with eps times eps_p. A global-norm clip comes first and does not
    depend on the width; schedules are untouched. State: the inner optimiser's alone.

    Args:
        inner: an optax transformation without learning rate and without weight decay, of the kind that the table is
            for: `optax.scale_by_adam()`, `optax.identity()` for SGD, `optax.trace(0.9)` for momentum. By default what
            the table's optimizer stands for (`scalings.SCALINGS`), with the usual constants.
        learning_rate: a number or an optax schedule, as at base size.
        weight_decay: decoupled, as at base size.
        clip: global norm, or None.

    Raises:
        ValueError: parameters that are not the table's (when the optimiser is initialised).

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from types import SimpleNamespace
        >>> from gendyn.parametrization.table import table
        >>> make = lambda width: SimpleNamespace(init=lambda key: {"mid": jnp.ones((width, width))}, axes=None)
        >>> rows = table(make, base={"width": 2}, target={"width": 4}, optimizer="sgd")
        >>> tx = optimizer(rows, optax.identity(), learning_rate=0.1)
        >>> params = make(4).init(None)
        >>> tx.update(params, tx.init(params), params)[0]["mid"][0, 0].item()
        -0.10000000149011612
    """
    inner = SCALINGS[table.optimizer](table) if inner is None else inner
    before = [] if clip is None else [optax.clip_by_global_norm(clip)]
    if OPTIMIZERS[table.optimizer].power == 0:
        before.append(_scaled(table, "eps", inverse=True))
    after = [_decayed(table, weight_decay)] if weight_decay else []
    return optax.chain(
        *before, inner, *after, _scaled(table, "learning_rate"), optax.scale_by_learning_rate(learning_rate)
    )


def _scaled(table: ParamTable, name: str, inverse: bool = False) -> optax.GradientTransformation:
    """Every leaf times (or over) its multiplier."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        factors = table.tree(name, updates)
        return jax.tree.map(lambda u, c: u if c == 1 else u / c if inverse else u * c, updates, factors), state

    def start(params: Any) -> Any:
        table.check(params)
        return optax.EmptyState()

    return optax.GradientTransformation(start, update)


def _decayed(table: ParamTable, weight_decay: float) -> optax.GradientTransformation:
    def update(updates: Any, state: Any, params: Any = None) -> Any:
        shares = table.tree("weight_decay", updates)
        return jax.tree.map(lambda u, c, p: u + weight_decay * c * p if c else u, updates, shares, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
