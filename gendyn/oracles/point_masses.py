"""Point masses and whole data sets: the exact model of a finite set, which memorises it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from gendyn.processes import Process
from gendyn.tree import expand, namespace

CHUNK = 1024
"""Points compared at once: memory is batch x CHUNK x entries of an example."""


@jax.tree_util.register_pytree_node_class
class PointMasses:
    """Data that are finitely many points y_i with weights w_i, exact under every path, PFGM++ included.

    With s_i = |x - alpha y_i|^2/sigma^2 and k the density of the unit noise as a function of its squared radius,

        denoised = sum_i g_i y_i,                               g_i proportional to w_i k(s_i),
        score = -sum_i g_i E[G | s_i] (x - alpha y_i)/sigma^2.

    Ratios k(s_i)/k(min s) are formed in the log domain without cancellation, so that float32 is exact to rounding even
    for PFGM++ at D = 1e6. Points are taken `CHUNK` at a time: whole image sets fit. One call costs n x N operations an
    example.

    Args:
        points: [n, *data].
        weights: [n], positive, normalised here; equal by default.

    Methods follow the array module and precision of x.

    Example:
        >>> import gendyn as gd, numpy as np
        >>> points = gd.oracles.PointMasses([[-1.0], [1.0]])
        >>> points.denoiser(gd.processes.PFGMPP(D=64))(np.array([[0.0]]), 1.0).tolist()
        [[0.0]]
    """

    points: Any
    weights: Any

    def __init__(self, points: Any, weights: Any = None):
        points = np.asarray(points)
        points = points if np.issubdtype(points.dtype, np.floating) else points.astype(np.float64)
        weights = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
        if points.ndim < 2 or not len(points) or weights.shape != points.shape[:1]:
            raise ValueError(
                f"point masses need points [n, *data] and weights [n]; got {points.shape} and {weights.shape}."
            )
        if not ((weights > 0).all() and np.isfinite(points).all()):
            raise ValueError("point masses need positive weights and finite points.")
        self.points, self.weights = points, weights / weights.sum()

    def tree_flatten(self) -> tuple[tuple[Any, ...], None]:
        return (self.points, self.weights), None

    @classmethod
    def tree_unflatten(cls, _: None, leaves: Any) -> PointMasses:
        new = object.__new__(cls)
        new.points, new.weights = leaves
        return new

    def denoiser(self, process: Process) -> jax.tree_util.Partial:
        """The exact D(x, t, cond=None) = E[data | x]; x is [batch, *data], t a scalar or [batch]."""
        return jax.tree_util.Partial(_denoised, self, process)

    def score(self, process: Process) -> jax.tree_util.Partial:
        """The exact score(x, t, cond=None) = grad log p_t(x), which only Gaussian noise has from the denoiser alone."""
        return jax.tree_util.Partial(_score, self, process)

    def velocity(self, process: Process) -> jax.tree_util.Partial:
        """The exact velocity(x, t, cond=None) = alpha' denoised + sigma' (x - alpha denoised)/sigma of the ODE."""
        return jax.tree_util.Partial(_velocity, self, process)

    def divergence(self, process: Process) -> jax.tree_util.Partial:
        """The exact trace of the velocity's Jacobian, [batch]."""
        return jax.tree_util.Partial(_divergence, self, process)

    def log_prob(self, process: Process, x: Any, t: Any) -> Any:
        """log p_t(x), [batch]; t inside the clock (sigma > 0)."""
        return _Sums(self, process, x, t).log_prob

    def posterior(self, process: Process, x: Any, t: Any) -> Any:
        """P(y_i | x), [batch, n]; n times batch numbers are held at once."""
        sums = _Sums(self, process, x, t)
        return sums.weight(sums.squared_radii(sums.flat_points), self.weights) / sums.total[:, None]


class _Sums:
    """Sums over the points at (x, t), accumulated a chunk at a time; everything is flat, [batch, N]."""

    def __init__(self, points: PointMasses, process: Process, x: Any, t: Any):
        self.xp = xp = namespace(x, t, points.points)
        t = xp.broadcast_to(xp.asarray(t), x.shape[:1])
        self.process, self.t, self.shape = process, t, x.shape
        self.x, self.dim = x.reshape(len(x), -1), math.prod(x.shape[1:])
        self.alpha, self.sigma = (expand(f(t), self.x) for f in (process.alpha, process.sigma))
        self.flat_points = xp.asarray(points.points, x.dtype).reshape(len(points.points), -1)
        weights = xp.asarray(points.weights, x.dtype)
        self.nearest = self._reduce(self._nearest, xp.full(len(x), np.inf, x.dtype), weights)
        nothing = xp.zeros_like(self.x)
        start = (nothing[:, 0], nothing, nothing, nothing[:, 0])
        self.total, points_sum, pull_sum, trace_sum = self._reduce(self._accumulate, start, weights)
        self.denoised = points_sum / self.total[:, None]
        self.pull = pull_sum / self.total[:, None]
        self.trace = trace_sum / self.total + (self.denoised * self.pull).sum(-1)

    def squared_radii(self, some: Any) -> Any:
        """s_i = |x - alpha y_i|^2/sigma^2, [batch, chunk], from differences: no cancellation."""
        return (((self.x[:, None] - self.alpha[:, None] * some) / self.sigma[:, None]) ** 2).sum(-1)

    def weight(self, s: Any, weights: Any) -> Any:
        """w_i k(s_i)/k(nearest), [batch, chunk]."""
        return weights * self.xp.exp(self.process.noise.log_ratio(s, self.nearest[:, None], self.dim))

    def _nearest(self, nearest: Any, some: Any, weights: Any) -> Any:
        s = self.xp.where(weights > 0, self.squared_radii(some), np.inf)
        return self.xp.minimum(nearest, s.min(1))

    def _accumulate(self, sums: Any, some: Any, weights: Any) -> Any:
        """Total, sum of g y, sum of g E[G|s] (x - alpha y)/sigma^2, and -sum of g y . the latter's summand."""
        s = self.squared_radii(some)
        g = self.weight(s, weights)
        pull = g * self.process.noise.precision(s, self.dim)
        towards = (self.x[:, None] - self.alpha[:, None] * some) / self.sigma[:, None] ** 2
        total, points, pulls, trace = sums
        return (
            total + g.sum(1),
            points + self.xp.einsum("bn,nd->bd", g, some),
            pulls + self.xp.einsum("bn,bnd->bd", pull, towards),
            trace - self.xp.einsum("bn,bnd,nd->b", pull, towards, some),
        )

    def _reduce(self, step: Callable[..., Any], start: Any, weights: Any) -> Any:
        """step over chunks of points: a Python loop on the host, one `lax.scan` in jax; padding has weight zero."""
        xp, n = self.xp, len(self.flat_points)
        size = min(CHUNK, n)
        missing = -n % size
        points = xp.concatenate([self.flat_points, xp.zeros_like(self.flat_points[:1]).repeat(missing, 0)])
        weights = xp.concatenate([weights, xp.zeros(missing, weights.dtype)])
        chunks = (points.reshape(-1, size, points.shape[1]), weights.reshape(-1, size))
        if xp is np:
            for some, own in zip(*chunks):
                start = step(start, some, own)
            return start
        return jax.lax.scan(lambda carry, chunk: (step(carry, *chunk), None), start, chunks)[0]

    @property
    def log_prob(self) -> Any:
        density = self.process.noise.log_density(self.nearest, self.dim)
        return density - self.dim * self.xp.log(self.sigma[:, 0]) + self.xp.log(self.total)


def _denoised(points: PointMasses, process: Process, x: Any, t: Any, cond: Any = None) -> Any:
    return _Sums(points, process, x, t).denoised.reshape(x.shape)


def _score(points: PointMasses, process: Process, x: Any, t: Any, cond: Any = None) -> Any:
    return -_Sums(points, process, x, t).pull.reshape(x.shape)


def _velocity(points: PointMasses, process: Process, x: Any, t: Any, cond: Any = None) -> Any:
    sums = _Sums(points, process, x, t)
    dalpha, dsigma = (expand(rate(sums.t), sums.x) for rate in (process.dalpha, process.dsigma))
    noise = (sums.x - sums.alpha * sums.denoised) / sums.sigma
    return (dalpha * sums.denoised + dsigma * noise).reshape(x.shape)


def _divergence(points: PointMasses, process: Process, x: Any, t: Any, cond: Any = None) -> Any:
    """tr(d denoised/dx) = E[y . a] - denoised . score, with a the score of one point."""
    sums = _Sums(points, process, x, t)
    trace, alpha, sigma = sums.trace, sums.alpha[:, 0], sums.sigma[:, 0]
    return process.dalpha(sums.t) * trace + process.dsigma(sums.t) * (sums.dim - alpha * trace) / sigma
