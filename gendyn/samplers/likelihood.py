"""Likelihood by the probability flow: follow a point to the noise, where the density is known.

Along du/dpsi = v, the flow of `gendyn.samplers.adaptive` with u = x/n and n = sqrt(alpha^2 + sigma^2), the density
obeys d log p(u)/dpsi = -div v, so that in d dimensions, with start and end those of generation (noise and data),

    log p_end(x) = log p_start(x_start) + d log(n_start/n_end) + integral of div v dpsi from the end to the start,

and div v = (d cos(psi) - trace of dD/du)/sin(psi). Grathwohl et al. 2019 (arXiv 1810.01367), Song et al. 2021
(arXiv 2011.13456), appendix D.2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gendyn.processes import Interpolant, Process
from gendyn.samplers.adaptive import MAX_STEPS, Control, angles, default_ends, explicit, integrate, rotation
from gendyn.samplers.run import as_argument, refuse_singular
from gendyn.tree import constant, pytree

Prior: TypeAlias = Callable[[Array, Any], Array]
"""(x, t) -> log density of the state at the noisy end, [batch]."""


class Divergence(Protocol):
    """How the trace of a Jacobian is found from products with vectors."""

    def probes(self, key: PRNGKeyArray | None, x: Array) -> Array:
        """[P, batch, *data], chosen once for the whole solve."""
        ...

    def estimates(self, products: Array) -> Array:
        """Estimates [P', batch] of the trace from v . J v, [P, batch]."""
        ...

    def standard_error(self, estimates: Array) -> Array:
        """Of the mean over the first axis, [batch]."""
        ...


@constant
class Exact:
    """The trace itself, from d products with unit vectors per network call: for low dimension."""

    def probes(self, key: PRNGKeyArray | None, x: Array) -> Array:
        shape = x.shape[1:]
        size = int(np.prod(shape))
        return jnp.broadcast_to(jnp.eye(size, dtype=x.dtype).reshape(size, 1, *shape), (size, *x.shape))

    def estimates(self, products: Array) -> Array:
        return products.sum(0, keepdims=True)

    def standard_error(self, estimates: Array) -> Array:
        return jnp.zeros_like(estimates[0])


@constant
class Hutchinson:
    """The mean of v . J v over Rademacher probes v: unbiased, and exact for a diagonal Jacobian.

    Hutchinson 1990; Skilling 1989. Probes are drawn once and kept for the whole solve: redrawn ones would turn the
    integrand into noise and the error estimate of the solver with it. One probe gives no standard error (nan).
    """

    num: int = 8

    def probes(self, key: PRNGKeyArray | None, x: Array) -> Array:
        if key is None:
            raise ValueError("Hutchinson draws its probes at random: pass key=jax.random.key(...), or use Exact().")
        return jax.random.rademacher(key, (self.num, *x.shape), x.dtype)

    def estimates(self, products: Array) -> Array:
        return products

    def standard_error(self, estimates: Array) -> Array:
        return estimates.std(0, ddof=1) / jnp.sqrt(self.num)


@pytree
class LogLikelihood:
    """Log-densities of a batch in nats, and what they cost.

    Attributes:
        log_prob: [batch].
        standard_error: of each log_prob by the choice of probes, [batch]; zero for an exact divergence.
        latent: where the flow takes each example, the state at the noisy end.
        nfe: network calls on the whole batch, each with one Jacobian-vector product per probe or dimension.
    """

    log_prob: Float[Array, " batch"]
    standard_error: Float[Array, " batch"]
    latent: Float[Array, "batch *data"]
    nfe: Int[Array, ""]


def log_likelihood(
    process: Process,
    D: Any,
    data: Float[Array, "batch *data"],
    key: PRNGKeyArray | None = None,
    *,
    divergence: Divergence | None = None,
    prior: Prior | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    solver: Any = None,
    cond: Any = None,
    max_steps: int = MAX_STEPS,
) -> LogLikelihood:
    """log p(data) of the model's probability flow, by one adaptive solve from data to noise.

    Data count as the state at t_end, as is usual: the density is that of the path's marginal there, which still has the
    noise sigma(t_end). State and log-density both enter the error control.

    Args:
        key: for `Hutchinson` probes.
        divergence: `Exact()` (default) or `Hutchinson(num=..)`.
        prior: log-density of the state at t_start. By default that of sigma(t_start) times unit noise, which leaves
            out the data's share: exact where alpha = 0 (rectified flow), otherwise biased by some
            (alpha/sigma)^2 |data|^2 nats. Or the exact marginal.
        t_start, t_end: noisy and clean end; by default the process's interval with sigma/alpha = 0.002 for a clean end.
        rtol, atol, solver, max_steps: as in `odeint`.

    Example:
        >>> import gendyn as gd, jax.numpy as jnp
        >>> process = gd.processes.RectifiedFlow()
        >>> D = gd.oracles.GaussianMixture([1.0], [[0.0]], [[1.0]]).denoiser(process)
        >>> round(float(log_likelihood(process, D, jnp.zeros((1, 1))).log_prob[0]), 2)
        -0.92
    """
    ends = [given if t is None else t for t, given in zip((t_start, t_end), default_ends(process), strict=True)]
    refuse_singular(D, np.asarray(ends))
    divergence = Exact() if divergence is None else divergence
    control = Control(rtol=rtol, atol=atol, solver=explicit(solver), max_steps=max_steps)
    probes, levels = divergence.probes(key, data), angles(process, *ends)
    change, latent, nfe = _flow(process, as_argument(D), data, probes, divergence, levels, control, cond)
    log_prior = (_unit_noise(process) if prior is None else prior)(latent, ends[0])
    return LogLikelihood(
        log_prob=log_prior + change.mean(0),
        standard_error=divergence.standard_error(change),
        latent=latent,
        nfe=nfe,
    )


def _unit_noise(process: Process) -> Prior:
    """The log-density of sigma times the process's own unit noise."""

    def log_prob(x: Array, t: Any) -> Array:
        sigma = float(process.sigma(t))
        flat = x.reshape(x.shape[0], -1) / sigma
        return process.noise.log_density((flat**2).sum(-1), flat.shape[1]) - flat.shape[1] * np.log(sigma)

    return log_prob


@partial(jax.jit, static_argnames="divergence")
def _flow(
    process: Process,
    D: Any,
    data: Array,
    probes: Array,
    divergence: Divergence,
    levels: Any,
    control: Control,
    cond: Any,
) -> tuple[Array, Array, Array]:
    """(log-density lost on the way to the noise, one row per estimate; latent; calls)."""
    (psi, norm), size = levels, data[0].size

    def field(angle: Any, y: Any, _: Any) -> Any:
        u, _lost = y
        denoised, trace = _traced(lambda u: rotation(process, D, u, angle, cond)[0], u, probes, divergence)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return (cos * u - denoised) / sin, ((size * cos - trace) / sin).T

    nothing = _nothing(data, probes, divergence)
    (u, lost), nfe, _ = integrate(field, (data / norm[1], nothing), psi[1], psi[0], control)
    change = lost.T + size * (jnp.log(norm[0]) - jnp.log(norm[1]))
    return change, norm[0] * u, nfe


def flow_log_likelihood(
    process: Interpolant,
    velocity: Any,
    data: Float[Array, "batch *data"],
    key: PRNGKeyArray | None = None,
    *,
    prior: Prior,
    divergence: Divergence | None = None,
    t_start: float | None = None,
    t_end: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    solver: Any = None,
    cond: Any = None,
    max_steps: int = MAX_STEPS,
) -> LogLikelihood:
    """log p(data) of an interpolant's ODE, dx/dt = velocity: d log p/dt = -div velocity along a path, so

        log p_end(x) = log p_start(x_start) - integral of div velocity dt from the start to the end.

    Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797), section 2. Either direction of the clock. Where the
    latent is a bridge its derivative is infinite at both ends: stay inside, with t_start and t_end.

    Args:
        velocity: (x, t, cond) -> velocity, for example the `Fields` of a trained model.
        data: states at t_end.
        prior: (x, t) -> log density of the states at t_start, [batch]: of the base, which must be known.
        t_start, t_end: by default the whole clock, from base to data.
        key, divergence, rtol, atol, solver, max_steps: as in `log_likelihood`.

    Example:
        >>> import gendyn as gd, jax.numpy as jnp
        >>> base, data = (gd.oracles.GaussianMixture([1.0], [[m]], [[1.0]]) for m in (0.0, 2.0))
        >>> process = gd.processes.Interpolant()
        >>> model, known = gd.oracles.TwoSided(base=base, data=data).fields(process), gd.processes.RectifiedFlow()
        >>> prior = lambda x, t: base.log_prob(known, x, 1.0)
        >>> round(float(flow_log_likelihood(process, model, jnp.full((1, 1), 2.0), prior=prior).log_prob[0]), 2)
        -0.92
    """
    ends = [given if t is None else t for t, given in zip((t_start, t_end), process.interval, strict=True)]
    refuse_singular(velocity, np.asarray(ends))
    divergence = Exact() if divergence is None else divergence
    control = Control(rtol=rtol, atol=atol, solver=explicit(solver), max_steps=max_steps)
    probes = divergence.probes(key, data)
    change, latent, nfe = _carried(as_argument(velocity), data, probes, divergence, ends, control, cond)
    return LogLikelihood(
        log_prob=prior(latent, ends[0]) + change.mean(0),
        standard_error=divergence.standard_error(change),
        latent=latent,
        nfe=nfe,
    )


@partial(jax.jit, static_argnames="divergence")
def _carried(
    velocity: Any, data: Array, probes: Array, divergence: Divergence, ends: Any, control: Control, cond: Any
) -> tuple[Array, Array, Array]:
    """(log-density lost on the way to the start, one row per estimate; the start; calls)."""

    def field(t: Any, y: Any, _: Any) -> Any:
        x, _lost = y
        value, trace = _traced(lambda x: velocity(x, t, cond), x, probes, divergence)
        return value, trace.T

    (x, lost), nfe, _ = integrate(field, (data, _nothing(data, probes, divergence)), ends[1], ends[0], control)
    return lost.T, x, nfe


def _traced(function: Callable[[Array], Array], x: Array, probes: Array, divergence: Divergence) -> tuple[Array, Array]:
    """The function's value and the estimates of its Jacobian's trace, [P', batch], from one linearisation."""
    value, jacobian = jax.linearize(function, x)
    products = jax.vmap(lambda v: (v * jacobian(v)).reshape(v.shape[0], -1).sum(-1))(probes)
    return value, divergence.estimates(products)


def _nothing(data: Array, probes: Array, divergence: Divergence) -> Array:
    """Zeros for every estimate of every example, [batch, P']."""
    estimates = jax.eval_shape(divergence.estimates, jax.ShapeDtypeStruct(probes.shape[:2], data.dtype))
    return jnp.zeros(estimates.shape[::-1], data.dtype)


def dequantize(key: PRNGKeyArray, data: Float[Array, "batch *data"], bin_width: float) -> Float[Array, "batch *data"]:
    """Data on a lattice of spacing bin_width, spread evenly over their bins: data + bin_width U(-1/2, 1/2).

    The likelihood of discrete data is that of dequantised data: on the lattice itself a density can grow without bound
    (Theis et al. 2016, arXiv 1511.01844). bin_width is the spacing of the levels, 2/255 or 2/256 for 8 bits on [-1, 1].
    """
    return data + bin_width * jax.random.uniform(key, data.shape, data.dtype, -0.5, 0.5)


def bits_per_dim(log_prob: Any, dim: int, bin_width: float) -> Any:
    """-log2 of the probability of a bin, per dimension: -(log p/(d ln 2) + log2 bin_width).

    For 8-bit data the offset -log2 bin_width is 7 on [-1, 1] and 8 on [0, 1]. Over dequantised data the mean is an
    upper bound on the code length of the discrete data.

    >>> float(bits_per_dim(0.0, dim=3, bin_width=2 / 256))
    7.0
    """
    return -log_prob / (dim * np.log(2)) - np.log2(bin_width)
