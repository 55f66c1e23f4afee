"""How straight a flow's paths are, and how far they carry: what rectification lowers.

A flow Z on the unit clock, noise at 0 and data at 1, pairs every start Z_0 with its end Z_1. With the exact velocity
E[data - base | x_t] of a coupling (base, data) on the straight path (Liu et al. 2023, arXiv 2209.03003):

    E c(Z_1 - Z_0) <= E c(data - base)   for every convex c                         (transport costs never rise)
    S(Z) = int_0^1 E |Z_1 - Z_0 - dZ/dt|^2 dt = 0   if and only if the paths are straight
    E |data - base|^2 - E |Z_1 - Z_0|^2 = S(Z) + int_0^1 E |data - base - dZ/dt(x_t)|^2 dt

Summing the last line over K rectifications, each of the pairs of the one before, min_k S(Z^k) <= E |data - base|^2/K.
|.|^2 is the sum over the entries of an example. A straight path is followed exactly by one Euler step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gendyn.predictions import velocity
from gendyn.processes import Process
from gendyn.samplers.run import as_argument
from gendyn.tree import pytree

Cost: TypeAlias = Callable[[Float[Array, "batch *data"]], Float[Array, " batch"]]
"""A convex function of displacements, one value per example."""


@pytree
class Paths:
    """The fine solution of a flow from given starts.

    Attributes:
        start, end: Z_0 and Z_1, [batch, *data].
        bend: int_0^1 |Z_1 - Z_0 - dZ/dt|^2 dt of each path, [batch]; never negative, zero for a straight one.
        leap: |Z_0 + dZ/dt(0) - Z_1|^2, [batch]: the squared error of one Euler step.
    """

    start: Array
    end: Array
    bend: Array
    leap: Array


def follow(process: Process, D: Callable[..., Any], x_T: Any, steps: int = 100, cond: Any = None) -> Paths:
    """Solve dZ/dt = velocity(Z, t) from Z_0 = x_T by the midpoint rule, and measure each path on the way.

    The rule's own slopes serve both: Z_1 - Z_0 is their mean, so the bend is their variance, and exactly zero (to
    rounding) where they agree. Second order in 1/steps; neither end of the clock but the first is evaluated.

    Args:
        process: a path on the unit clock from pure noise to clean data, such as `RectifiedFlow`.
        D: denoiser (x, t, cond), a pytree callable.
        x_T: starts, unit noise, [batch, *data].
        steps: of the midpoint rule, two network calls each.

    Raises:
        ValueError: a process on another clock.

    Example:
        >>> import gendyn as gd, jax
        >>> process = gd.processes.RectifiedFlow()
        >>> point = gd.oracles.GaussianMixture([1.0], [[2.0]], [[0.0]])
        >>> paths = follow(process, point.denoiser(process), process.sample_prior(jax.random.key(0), (4, 1)))
        >>> bool((paths.bend < 1e-6).all() and abs(paths.end - 2).max() < 1e-4)
        True
    """
    refuse_other_clocks(process)
    if steps < 1:
        raise ValueError(f"a path needs at least one step; got {steps}.")
    return _follow(process, as_argument(D), jnp.asarray(x_T), steps, cond)


def straightness(
    process: Process, D: Callable[..., Any], x_T: Any, steps: int = 100, cond: Any = None
) -> Float[Array, ""]:
    """S = int_0^1 E |Z_1 - Z_0 - dZ/dt|^2 dt, the mean over the starts; zero if and only if every path is straight.

    Liu et al. 2023 (arXiv 2209.03003), section 2.2. See `follow` for the arguments and the cost.
    """
    return follow(process, D, x_T, steps, cond).bend.mean()


def squared(displacement: Float[Array, "batch *data"]) -> Float[Array, " batch"]:
    """|z|^2, the sum of squares of an example's entries."""
    return jnp.sum(displacement**2, axis=tuple(range(1, displacement.ndim)))


def euclidean(displacement: Float[Array, "batch *data"]) -> Float[Array, " batch"]:
    """|z|, the length."""
    return jnp.sqrt(squared(displacement))


def absolute(displacement: Float[Array, "batch *data"]) -> Float[Array, " batch"]:
    """The sum of the entries' absolute values (L1)."""
    return jnp.sum(jnp.abs(displacement), axis=tuple(range(1, displacement.ndim)))


COSTS: dict[str, Cost] = {"squared": squared, "euclidean": euclidean, "absolute": absolute}
"""Name -> convex cost; reports read this list."""


def transport_cost(start: Any, end: Any, cost: Cost = squared) -> Float[Array, ""]:
    """E c(end - start), both [batch, *data], for a convex c: one of `COSTS`, or a function [batch, *data] -> [batch].

    >>> import jax.numpy as jnp
    >>> float(transport_cost(jnp.zeros((2, 2)), jnp.ones((2, 2)), absolute))
    2.0
    """
    return cost(jnp.asarray(end) - jnp.asarray(start)).mean()


def refuse_other_clocks(process: Process) -> None:
    """Only paths that run from exactly the noise at t = 0 to exactly the data at t = 1."""
    ends = [float(f(t)) for t in (process.t_noise, process.t_data) for f in (process.alpha, process.sigma)]
    if (process.t_noise, process.t_data) != (0.0, 1.0) or ends != [0.0, 1.0, 1.0, 0.0]:
        raise ValueError(
            "rectification needs a path on the unit clock from pure noise (alpha = 0, sigma = 1 at t = 0) to clean "
            f"data, such as RectifiedFlow(); {process} has alpha = {ends[0]:.3g}, sigma = {ends[1]:.3g} at its noise "
            f"end t = {process.t_noise:g}."
        )


@jax.jit(static_argnums=(0, 3))
def _follow(process: Process, D: Any, x_T: Array, steps: int, cond: Any) -> Paths:
    field = velocity(D, process)
    h = 1.0 / steps

    def step(x: Array, t: Array) -> tuple[Array, Array]:
        slope = field(x + 0.5 * h * field(x, t, cond), t + 0.5 * h, cond)
        return x + h * slope, slope

    def move(carry: tuple[Array, Array, Array], inputs: tuple[Array, Array]) -> tuple[tuple[Array, Array, Array], None]:
        x, mean, total = carry
        t, count = inputs
        x, slope = step(x, t)
        before = slope - mean  # Welford's running mean and sum of squares: slopes are not kept
        mean = mean + before / count
        inner = jnp.sum(before * (slope - mean), axis=tuple(range(1, x.ndim)))
        return (x, mean, total + inner), None

    count = jnp.arange(1, steps + 1, dtype=x_T.dtype)
    start = (x_T, jnp.zeros_like(x_T), jnp.zeros(x_T.shape[:1], x_T.dtype))
    (end, _, total), _ = jax.lax.scan(move, start, (h * (count - 1), count))
    first = field(x_T, jnp.zeros((), x_T.dtype), cond)
    return Paths(start=x_T, end=end, bend=h * total, leap=squared(x_T + first - end))
