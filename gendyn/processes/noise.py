"""Unit noise: the law of z in x = alpha data + sigma z.

A law here is spherical, a function of s = |z|^2, and a mixture of Gaussians of different scale: z = n/sqrt(G) with n
standard normal in N dimensions and a positive precision G, one per example. G = 1 is Gaussian noise. The continuity
equation holds along dx/dsigma = (x - denoised)/sigma for any such law, so that ODE samplers need nothing else; what
only Gaussian noise has is the score in closed form, (alpha denoised - x)/sigma^2, and an SDE of the same marginals.

A law of your own is one more class with these methods, and a process that returns it as `noise`.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.tree import constant, namespace


@runtime_checkable
class Noise(Protocol):
    """A spherical law of unit scale in N = dim dimensions; s is the squared radius |z|^2."""

    @property
    def gaussian(self) -> bool: ...
    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = ...) -> Array: ...
    def log_density(self, s: Any, dim: int) -> Any: ...
    def log_ratio(self, s: Any, nearest: Any, dim: int) -> Any: ...
    def precision(self, s: Any, dim: int) -> Any: ...
    def log_mixing(self, u: Any) -> Any: ...
    def bracket(self, s: Any, dim: int) -> tuple[Any, Any]: ...


@constant
class GaussianNoise:
    """Standard normal noise."""

    gaussian = True

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = float) -> Float[Array, "batch *data"]:
        """Unit noise, [batch, *data]."""
        return jax.random.normal(key, shape, dtype)

    def log_density(self, s: Any, dim: int) -> Any:
        """log N(z; 0, I) at |z|^2 = s."""
        return -0.5 * (s + dim * math.log(2 * math.pi))

    def log_ratio(self, s: Any, nearest: Any, dim: int) -> Any:
        """log_density(s) - log_density(nearest), without cancellation."""
        return -0.5 * (s - nearest)

    def precision(self, s: Any, dim: int) -> Any:
        """E[G | s]; the gradient of the log-density is -precision(s) z."""
        return namespace(s).ones_like(s)

    def log_mixing(self, u: Any) -> Any:
        """Log-density of u = log G, up to a constant: all mass at 0, which no density has."""
        raise ValueError("Gaussian noise has precision 1: there is nothing to mix.")

    def bracket(self, s: Any, dim: int) -> tuple[Any, Any]:
        """Where the posterior of u = log G lies."""
        return 0 * s, 0 * s


NATS = 45.0
"""How far below its peak an integrand is dropped: e^-45 is 3e-20."""


@constant
class StudentT:
    """The multivariate Student-t law with D degrees of freedom, the kernel of PFGM++: G ~ Gamma(D/2, rate D/2).

        p(z) = Gamma((N + D)/2)/(Gamma(D/2) (pi D)^{N/2}) (1 + |z|^2/D)^{-(N + D)/2}

    Xu et al. 2023, "PFGM++" (arXiv 2302.04265): their kernel (|x - y|^2 + r^2)^{-(N + D)/2} at r = sigma sqrt(D).
    |z|^2/N follows the F law with (N, D) degrees of freedom; E|z|^2 = N D/(D - 2) for D > 2 and infinite otherwise.
    D -> infinity is Gaussian, D = 1 the field of PFGM.

    Args:
        D: any number above zero; whole numbers count the extra dimensions of the electrostatic picture.
    """

    D: float

    gaussian = False

    def __post_init__(self) -> None:
        if not (self.D > 0 and math.isfinite(self.D)):
            raise ValueError(f"D must be a positive number; got {self.D} (for D = infinity use gd.processes.EDM).")

    def draw(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = float) -> Float[Array, "batch *data"]:
        """Unit noise, [batch, *data]: one precision for each example of the leading axis.

        Drawn as a normal and a *log*-gamma, which neither underflows at small D nor divides by a radius: in float32 the
        radii pass a Kolmogorov-Smirnov test from D = 1 to 1e6. (The published code draws a Beta variable, clipped to
        [1e-3, 1 - 1e-3], which at 3072 dimensions changes the law for D below 64 and above 1e6.)
        """
        key_normal, key_gamma = jax.random.split(key)
        normal = jax.random.normal(key_normal, shape, dtype)
        log_gamma = jax.random.loggamma(key_gamma, 0.5 * self.D, shape[:1], dtype)
        scale = jnp.exp(-0.5 * (log_gamma - math.log(0.5 * self.D)))
        return normal * scale.reshape(shape[:1] + (1,) * (len(shape) - 1))

    def log_density(self, s: Any, dim: int) -> Any:
        """log p(z) at |z|^2 = s."""
        from scipy.special import gammaln

        constant = gammaln((dim + self.D) / 2) - gammaln(self.D / 2) - 0.5 * dim * math.log(math.pi * self.D)
        return float(constant) - 0.5 * (dim + self.D) * namespace(s).log1p(s / self.D)

    def log_ratio(self, s: Any, nearest: Any, dim: int) -> Any:
        """log_density(s) - log_density(nearest), without cancellation: exact in float32 at D = 1e6 too."""
        return -0.5 * (dim + self.D) * namespace(s).log1p((s - nearest) / (self.D + nearest))

    def precision(self, s: Any, dim: int) -> Any:
        """E[G | s] = (N + D)/(D + s)."""
        return (dim + self.D) / (self.D + s)

    def log_mixing(self, u: Any) -> Any:
        """Log-density of u = log G, up to a constant, zero at its mode u = 0."""
        return -0.5 * self.D * (namespace(u).expm1(u) - u)

    def bracket(self, s: Any, dim: int) -> tuple[Any, Any]:
        """An interval of u = log G outside which mixing density times any Gaussian likelihood is negligible.

        The likelihood of a Gaussian with covariance C + 1/G has slope at most N/2 and at least -G s/2 in u, so the
        product rises below u = log D/(D + s) and falls above log(N + D)/D; beyond, it loses `NATS` within a distance
        that follows from the mixing density alone.
        """
        xp = namespace(s)
        low, high = -xp.log1p(s / self.D), math.log1p(dim / self.D)
        return low - _reach(self.D, lambda d: d - 1 + np.exp(-d)), high + _reach(
            self.D + dim, lambda d: np.expm1(d) - d
        )


def _reach(degrees: float, loss: Any) -> float:
    """The distance at which degrees/2 loss(distance) = NATS, by bisection."""
    near, far = 0.0, 1.0
    while 0.5 * degrees * loss(far) < NATS:
        far *= 2
    for _ in range(60):
        middle = 0.5 * (near + far)
        near, far = (middle, far) if 0.5 * degrees * loss(middle) < NATS else (near, middle)
    return far
