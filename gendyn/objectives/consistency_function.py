"""A network as a consistency function: the jump along the probability flow to its clean end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gendyn.predictions import log_noise
from gendyn.processes import Process
from gendyn.tree import constant, expand, namespace, pytree, static


@constant
class Boundary:
    """f = c_skip y + c_out F(c_in y), exactly y at sigma = sigma_min; y = x/alpha, sigma = sigma(t)/alpha(t).

        c_skip = sd^2/((sigma - sigma_min)^2 + sd^2),  c_out = sd (sigma - sigma_min)/sqrt(sigma^2 + sd^2),
        c_in = 1/sqrt(sigma^2 + sd^2):  Song et al. 2023 (arXiv 2303.01469), appendix C.

    >>> [float(c) for c in Boundary(sigma_min=0.002).coefficients(np.float64(0.002))[:2]]
    [1.0, 0.0]
    """

    sigma_min: float = 0.002
    sigma_data: float = 0.5

    def coefficients(self, sigma: Any) -> tuple[Any, Any, Any]:
        """(c_skip, c_out, c_in) at a noise level sigma/alpha."""
        above, sd = sigma - self.sigma_min, self.sigma_data
        norm = namespace(sigma).sqrt(sigma**2 + sd**2)
        return sd**2 / (above**2 + sd**2), sd * above / norm, 1 / norm


@pytree
class ConsistencyFunction:
    """f(x, t, cond): where the probability flow through (x, t) was at sigma_min, in the scale of the data.

    Made by `ConsistencyTraining(...).denoiser` and `ConsistencyDistillation(...).denoiser`. A pytree whose only leaves
    are the parameters. It is no posterior mean: only the samplers of `samplers.MAPS` run it, and others are refused.
    """

    params: Any
    apply: Callable[..., Any] = static()
    process: Process = static()
    boundary: Boundary = static()
    label: Callable[[Process, Any], Any] = static(default=log_noise)

    field = "jump"
    """What a call returns, for plans to check."""

    def __call__(self, x: Float[Array, "batch *data"], t: Any, cond: Any = None) -> Float[Array, "batch *data"]:
        """The sample at sigma_min, formed in at least float32; t is a scalar or [batch]."""
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        t = jnp.asarray(t, dtype)
        sigma = expand(jnp.broadcast_to(self.process.sigma(t) / self.process.alpha(t), x.shape[:1]), x)
        c_skip, c_out, c_in = self.boundary.coefficients(sigma)
        y = x.astype(dtype) / expand(self.process.alpha(t), x)
        label = jnp.broadcast_to(self.label(self.process, t), x.shape[:1])
        return c_skip * y + c_out * self.apply(self.params, (c_in * y).astype(x.dtype), label, cond).astype(dtype)

    def singular(self, times: np.ndarray) -> np.ndarray:
        """Times without signal, where x says nothing, or with an infinite noise label."""
        with np.errstate(all="ignore"):
            label = self.label(self.process, np.asarray(times, np.float64))
        return ~np.isfinite(label) | (np.asarray(self.process.alpha(times)) == 0)
