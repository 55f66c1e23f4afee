"""Sharpness: the largest curvature that an optimiser feels, which bounds its stable learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from gendyn.parametrization.table import ParamTable


def sharpness(
    loss: Callable[[Any], Any],
    params: Any,
    *,
    scale: Any = None,
    tolerance: float = 1e-3,
    iterations: int = 200,
    seed: int = 0,
) -> float:
    """The largest eigenvalue of P^1/2 H P^1/2, H the Hessian of the loss at the parameters and P = diag(scale).

    With P the learning-rate multipliers of a table it is what SGD feels: full-batch steps of rate r are stable while it
    is below 2/r. Under muP it does not depend on the width, and so neither does the largest stable rate (Noci et al.
    2024, arXiv:2402.17457). With `adam_scale` it is what Adam feels.

    Args:
        loss: of the parameters alone, on one fixed batch.
        scale: a tree like the parameters of positive numbers or arrays; 1 by default.
        tolerance: relative, of the eigenvalue.
        iterations: restarts of the solver at most.

    Raises:
        ValueError: the loss or its curvature is not finite.

    Cost: some twenty to a hundred Hessian-vector products, each about two gradients (SciPy's Lanczos).

    Example:
        >>> loss = lambda p: 0.5 * jnp.sum(jnp.array([3.0, 1.0, -5.0]) * p**2)
        >>> round(sharpness(loss, jnp.ones(3)), 3)
        3.0
        >>> round(sharpness(loss, jnp.ones(3), scale=jnp.array([1.0, 4.0, 1.0])), 3)
        4.0
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    flat, unravel = ravel_pytree(params)
    wanted = jax.tree.map(lambda p: jnp.ones_like(p), params)
    filled = wanted if scale is None else jax.tree.map(lambda one, s: one * s, wanted, scale)
    root = jnp.sqrt(ravel_pytree(filled)[0])

    @jax.jit
    def product(flat: Any, v: Any) -> Any:
        gradient = jax.grad(lambda p: loss(unravel(p)))
        return root * jax.jvp(gradient, (flat,), (root * v,))[1]

    start = np.random.default_rng(seed).standard_normal(flat.size).astype(np.float32)
    if not np.isfinite(np.asarray(product(flat, start))).all():
        raise ValueError("the curvature of the loss is not finite at these parameters; have they diverged?")
    if flat.size < 3:  # too small for Lanczos
        matrix = np.stack([np.asarray(product(flat, row)) for row in np.eye(flat.size, dtype=np.float32)])
        return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])
    operator = LinearOperator(
        (flat.size, flat.size), matvec=lambda v: np.asarray(product(flat, np.ravel(v))), dtype=np.float32
    )
    found = eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, maxiter=iterations, return_eigenvectors=False)
    return float(found[0])


def adam_scale(state: Any, table: ParamTable | None = None, *, eps: float = 1e-8, b2: float = 0.999) -> Any:
    """Adam's preconditioner, rate_p/(sqrt(v/(1 - b2^k)) + eps) for every entry, from its state after k steps.

    Full-batch steps of rate r with b1 = 0.9 are stable while `sharpness` with this scale is below about 38/r (Cohen et
    al. 2022, arXiv:2207.14484).

    Args:
        state: of a chain with one `optax.scale_by_adam` in it, for example `gendyn.parametrization.optimizer`'s.
        table: its multipliers of rate and eps are taken into account.

    Raises:
        ValueError: a state without Adam's, or before the first step.
    """
    second, count = optax.tree_utils.tree_get(state, "nu"), optax.tree_utils.tree_get(state, "count")
    if second is None or count is None or int(count) == 0:
        raise ValueError("adam_scale needs the state of an Adam optimiser after one step or more.")
    one = jax.tree.map(lambda _: 1.0, second)
    rates, floors = (one, one) if table is None else (table.tree(n, second) for n in ("learning_rate", "eps"))
    unbiased = 1 - b2 ** int(count)
    return jax.tree.map(lambda v, r, c: r / (c * (jnp.sqrt(v / unbiased) + eps)), second, rates, floors)
