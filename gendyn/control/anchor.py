"""Anchors: a mean per sample, around which a plan runs. How every sampler serves mean-reverting diffusion.

The marginal x = alpha data + (1 - alpha) mu + sigma noise is an ordinary Gaussian path in z = x - mu (see
`gendyn.processes.mean_reverting`). So a step of any solver for x is mu plus its step for z, with the denoiser of z

    D_z(z, t) = D(z + mu, t) - mu,

and the MR-Sampler's ODE and SDE solvers (Li et al. 2025, arXiv 2502.07856), noise and data form, are `dpm_solver`,
`dpmpp`, `seeds` and `sde_dpmpp` around an anchor. mu is a value of the run, never part of a plan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.samplers import SamplerPlan, run
from gendyn.samplers.run import Observe, as_argument
from gendyn.tree import pytree


@pytree
class Anchored:
    """A denoiser of z = x - mu, made by `anchored`; the inner denoiser and mu are leaves."""

    D: Any
    mu: Any

    def __call__(self, z: Float[Array, "batch *data"], t: Any, cond: Any = None) -> Float[Array, "batch *data"]:
        trailing = zip(np.shape(self.mu)[::-1], np.shape(z)[::-1])
        if np.ndim(self.mu) > np.ndim(z) or any(own not in (1, size) for own, size in trailing):
            raise ValueError(
                f"mu must be one anchor per sample, of shape {np.shape(z)} or broadcasting to it; got "
                f"{np.shape(self.mu)}. Guidance doubles the batch: guide first, anchored(cfg(D, ...), mu)."
            )
        return self.D(z + self.mu, t, cond) - self.mu

    def singular(self, times: np.ndarray) -> np.ndarray:
        """Times at which the inner model cannot be turned into a denoised."""
        inner = getattr(self.D, "singular", None)
        return np.zeros(np.shape(times), bool) if inner is None else inner(times)


def anchored(D: Callable[..., Any], mu: Any) -> Anchored:
    """The denoiser of z = x - mu from one of x: (z, t, cond) -> D(z + mu, t, cond) - mu.

    Args:
        D: E[data | x] on the mean-reverting path of x, for example `objectives.Restoration(...).denoiser(...)`.
        mu: one anchor per sample, [batch, *data].

    Example:
        >>> import gendyn as gd, jax.numpy as jnp
        >>> D = anchored(lambda x, t, cond: 0.5 * x, jnp.full((1, 2), 4.0))
        >>> D(jnp.zeros((1, 2)), 0.3).tolist()
        [[-2.0, -2.0]]
    """
    return Anchored(D=as_argument(D), mu=mu)


def restore(
    plan: SamplerPlan,
    D: Callable[..., Any],
    mu: Float[Array, "batch *data"],
    key: PRNGKeyArray | None = None,
    *,
    x_T: Float[Array, "batch *data"] | None = None,
    noise: Any = None,
    cond: Any = None,
    observe: Observe | None = None,
) -> Any:
    """Run a plan around mu: x = mu + run(plan, anchored(D, mu), x_T - mu).

    By default x_T = mu + sigma noise, the stationary start. The path itself ends alpha_T (data - mu) away from there
    (see `processes.MeanReverting`): convergence studies should pass its exact law as x_T.

    Args:
        plan: a plan of the path of z, for example `gd.plan("dpmpp_2m", gd.processes.MeanReverting(), nfe=10)`.
        D: denoiser of x.
        mu: the degraded images, [batch, *data].
        key: of the start and of the draws of a stochastic plan; one key, or one per example, [batch].
        x_T: the state at the plan's first node, in the place of the stationary start.
        noise, cond, observe: as in `samplers.run`; `observe` sees z and its denoised.

    Returns:
        x, or (x, observations) with `observe`. Cost: that of the plan.

    Example:
        >>> import gendyn as gd, jax, jax.numpy as jnp
        >>> plan = gd.plan("dpmpp_2m", gd.processes.MeanReverting(), nfe=5)
        >>> D = lambda x, t, cond: jnp.ones_like(x)
        >>> restore(plan, D, jnp.zeros((2, 3)), jax.random.key(0)).round(3).tolist()
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    mu = jnp.asarray(mu)
    if x_T is None:
        if key is None:
            raise ValueError("pass key= to draw the start mu + sigma noise, or x_T= with the start itself.")
        key, z_T = _start(plan, key, mu)
    else:
        z_T = jnp.asarray(x_T) - mu
    result = run(plan, anchored(D, mu), z_T, key=key, noise=noise, cond=cond, observe=observe)
    return (result[0] + mu, result[1]) if observe else result + mu


def _start(plan: SamplerPlan, key: PRNGKeyArray, mu: Array) -> tuple[PRNGKeyArray, Array]:
    """(the plan's key or keys, sigma noise at its first node), each example from its own key where there are many."""

    def prior(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
        return plan.process.sample_prior(key, shape, t=float(plan.t[0])).astype(mu.dtype)

    if key.ndim == 0:
        first, draws = jax.random.split(key)
        return draws, prior(first, mu.shape)
    first, draws = jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
    return draws, jax.vmap(lambda k: prior(k, (1, *mu.shape[1:]))[0])(first)
