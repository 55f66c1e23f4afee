"""One noise path, whatever the grid: draws for `run(..., noise=)` that agree between step counts."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.samplers.levels import CLOCK_END
from gendyn.samplers.plan import SamplerPlan

DEPTH = 24
CELL = 2 * CLOCK_END / 2**DEPTH  # 2.4e-6 in lam: nodes are snapped to this lattice, so draws stay exactly normal


def brownian(plan: SamplerPlan, key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "rows batch *data"]:
    """The unit draws of a plan, cut from one path that depends on the key alone.

    A Brownian motion W run on the clock e^{2 lam} is, divided by e^{lam}, the stationary Ornstein-Uhlenbeck process
    U(lam) of unit variance and correlation e^{-|difference|}. The noise that the exact reverse-time SDE of a Gaussian
    path adds between lam_s and lam_e is sigma_e (U(lam_e) - e^{-h} U(lam_s)), so row i, which owns the interval [a, b]
    of the plan's `clock`, receives

        (U(b) - e^{-(b - a)} U(a)) / sqrt(1 - e^{-2(b - a)}).

    Refining a grid refines the same path: step counts can be compared draw by draw, and strong order can be measured.
    U is built by bisection, U(mid) = (U(left) + U(right))/(2 cosh d) + sqrt(tanh d) z for half-width d.

    Args:
        plan: any plan; only its `clock` is read. Rows with an empty interval receive zeros.
        key: identifies the path; or one key per example, [batch].
        shape: the state's shape, (batch, *data).

    Returns:
        [R, batch, *data] standard normal draws, independent over rows with disjoint intervals.
        Cost: 24 normals per element and distinct node of the clock.

    Example:
        >>> import gendyn as gd, jax
        >>> plan = gd.plan("ancestral", gd.processes.VPLinear(), nfe=4)
        >>> brownian(plan, jax.random.key(0), (2, 3)).shape
        (4, 2, 3)
    """
    clock = np.clip(np.asarray(plan.clock, np.float64), -CLOCK_END, CLOCK_END)
    cells = np.rint((clock + CLOCK_END) / CELL).astype(np.int32)
    nodes, where = np.unique(cells, return_inverse=True)
    left, right = where.reshape(cells.shape).T
    width = CELL * (cells[:, 1] - cells[:, 0])
    if ((clock[:, 1] > clock[:, 0]) & (width == 0)).any():
        raise ValueError(f"brownian resolves steps of at least {CELL:.1e} in lam; this plan has a shorter one.")
    path = _path(jnp.asarray(nodes), key, tuple(shape))
    spread = -np.expm1(-2 * width)
    norm = np.where(spread > 0, 1 / np.sqrt(np.where(spread > 0, spread, 1.0)), 0.0)
    column = (slice(None),) + (None,) * len(shape)
    return norm[column] * (path[right] - np.exp(-width)[column] * path[left])


@partial(jax.jit, static_argnames="shape")
def _path(nodes: Array, key: Any, shape: tuple[int, ...]) -> Array:
    """U at lattice points, [nodes, *shape], each found by its own descent through the dyadic tree."""

    def normal(identity: Any) -> Array:
        if key.ndim == 0:
            return jax.random.normal(jax.random.fold_in(key, identity), shape)
        keys = jax.vmap(jax.random.fold_in, (0, None))(key, identity)
        return jax.vmap(lambda k: jax.random.normal(k, shape[1:]))(keys)

    def descend(node: Array) -> Array:
        def bisect(level: Any, state: Any) -> Any:
            lower, u_left, u_right = state
            half = 2 ** (DEPTH - 1 - level)
            d = CELL * half
            identity = 2**level + lower // (2 * half)
            u_mid = (u_left + u_right) / (2 * jnp.cosh(d)) + jnp.sqrt(jnp.tanh(d)) * normal(identity)
            right = node >= lower + half
            return (
                jnp.where(right, lower + half, lower),
                jnp.where(right, u_mid, u_left),
                jnp.where(right, u_right, u_mid),
            )

        # The two ends are 40 apart in lam: independent to e^{-40}.
        start = (jnp.int32(0), normal(0), normal(2 ** (DEPTH + 1)))
        lower, u_left, u_right = jax.lax.fori_loop(jnp.int32(0), jnp.int32(DEPTH), bisect, start)
        return jnp.where(node == lower, u_left, u_right)

    return jax.lax.map(descend, nodes)
