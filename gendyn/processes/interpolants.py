"""Stochastic interpolants: a path between two data sets.

    x = a(t) base + b(t) data + gamma(t) noise,      base at t = 0, data at t = 1, noise ~ N(0, I)

with a, b going from (1, 0) to (0, 1) and the latent gamma zero at both ends. Albergo, Boffi and Vanden-Eijnden 2023,
"Stochastic Interpolants" (arXiv 2303.08797). Base and data come from any coupling that is independent of the noise.

A path and a latent are two values. With a standard normal base nothing two-sided is left: base and latent add up to
Gaussian noise, and `one_sided` gives that Gaussian path, on which every sampler runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.processes.gaussian import GaussianPath, Time
from gendyn.tree import constant, expand, namespace


class Latent(Protocol):
    """gamma(t), its derivative, and their product, which stays finite where the derivative does not."""

    def gamma(self, t: Time) -> Any: ...
    def dgamma(self, t: Time) -> Any: ...
    def product(self, t: Time) -> Any: ...


class PathCoefficients(Protocol):
    """a(t), b(t) and their derivatives; they may depend on the latent, to keep the variance."""

    def ab(self, t: Time, latent: Latent) -> tuple[Any, Any]: ...
    def dab(self, t: Time, latent: Latent) -> tuple[Any, Any]: ...


# --- Latents ----------------------------------------------------------------------------------------------------


@constant
class NoLatent:
    """gamma = 0: the path between a pair is a curve."""

    def gamma(self, t: Time) -> Any:
        return namespace(t).zeros_like(t) * 1.0

    def dgamma(self, t: Time) -> Any:
        return namespace(t).zeros_like(t) * 1.0

    def product(self, t: Time) -> Any:
        return namespace(t).zeros_like(t) * 1.0


@constant
class Bridge:
    """gamma = sqrt(scale t (1 - t)), a Brownian bridge; its derivative is infinite at both ends."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"the scale of a bridge must be positive; got {self.scale} (NoLatent() has none).")

    def gamma(self, t: Time) -> Any:
        return namespace(t).sqrt(self.scale * t * (1 - t))

    def dgamma(self, t: Time) -> Any:
        return self.product(t) / self.gamma(t)

    def product(self, t: Time) -> Any:
        return 0.5 * self.scale * (1 - 2 * t)


@constant
class SineSquared:
    """gamma = scale sin^2(pi t), with zero slope at both ends."""

    scale: float = 1.0

    def gamma(self, t: Time) -> Any:
        return self.scale * namespace(t).sin(math.pi * t) ** 2

    def dgamma(self, t: Time) -> Any:
        return self.scale * math.pi * namespace(t).sin(2 * math.pi * t)

    def product(self, t: Time) -> Any:
        return self.gamma(t) * self.dgamma(t)


@constant
class UserLatent:
    """Any gamma(t), a function of jax arrays; the derivative is taken automatically."""

    function: Callable[[Any], Any]

    def gamma(self, t: Time) -> Any:
        return _value(self.function, t)

    def dgamma(self, t: Time) -> Any:
        return _derivative(self.function, t)

    def product(self, t: Time) -> Any:
        return self.gamma(t) * self.dgamma(t)


def _value(function: Callable[[Any], Any], t: Time) -> Any:
    """In t's own array module; on the host in float64."""
    if isinstance(t, jax.Array):
        return function(t)
    with jax.enable_x64(True):
        return np.asarray(function(jnp.asarray(t, jnp.float64)), np.float64)[()]


def _derivative(function: Callable[[Any], Any], t: Time) -> Any:
    slope = lambda t: jax.jvp(function, (t,), (jnp.ones_like(t),))[1]
    return _value(slope, t)


# --- Paths ------------------------------------------------------------------------------------------------------


@constant
class LinearPath:
    """a = 1 - t, b = t."""

    def ab(self, t: Time, latent: Latent) -> tuple[Any, Any]:
        return 1.0 - t, t * 1.0

    def dab(self, t: Time, latent: Latent) -> tuple[Any, Any]:
        one = namespace(t).ones_like(t) * 1.0
        return -one, one


@constant
class TrigonometricPath:
    """a = sqrt(1 - gamma^2) cos(pi t/2), b = sqrt(1 - gamma^2) sin(pi t/2): unit variance between unit ends."""

    def ab(self, t: Time, latent: Latent) -> tuple[Any, Any]:
        xp, root = namespace(t), self._root(t, latent)
        return root * xp.sin(0.5 * math.pi * (1 - t)), root * xp.sin(0.5 * math.pi * t)

    def dab(self, t: Time, latent: Latent) -> tuple[Any, Any]:
        (a, b), root = self.ab(t, latent), self._root(t, latent)
        shrink = -latent.product(t) / root**2
        return shrink * a - 0.5 * math.pi * b, shrink * b + 0.5 * math.pi * a

    def _root(self, t: Time, latent: Latent) -> Any:
        return namespace(t).sqrt(1 - latent.gamma(t) ** 2)


@constant
class EncodingDecoding:
    """cos^2(pi t) of the base until t = 1/2, of the data afterwards: with gamma = sin^2(pi t) all is noise half way."""

    def ab(self, t: Time, latent: Latent) -> tuple[Any, Any]:
        return self._halves(t, namespace(t).cos(math.pi * t) ** 2)

    def dab(self, t: Time, latent: Latent) -> tuple[Any, Any]:
        return self._halves(t, -math.pi * namespace(t).sin(2 * math.pi * t))

    def _halves(self, t: Time, value: Any) -> tuple[Any, Any]:
        xp = namespace(t)
        early = xp.asarray(t) < 0.5
        return xp.where(early, value, 0.0), xp.where(early, 0.0, value)


@constant
class Mirror:
    """a = 0, b = 1: from the data through noise back to the data. The velocity is -gamma gamma' score.

    (The published code has the other sign in its ODE; its SDE has this one.)
    """

    def ab(self, t: Time, latent: Latent) -> tuple[Any, Any]:
        xp = namespace(t)
        return xp.zeros_like(t) * 1.0, xp.ones_like(t) * 1.0

    def dab(self, t: Time, latent: Latent) -> tuple[Any, Any]:
        zero = namespace(t).zeros_like(t) * 1.0
        return zero, zero


@constant
class UserPath:
    """Any a(t) and b(t), functions of jax arrays; derivatives are taken automatically."""

    a: Callable[[Any], Any]
    b: Callable[[Any], Any]

    def ab(self, t: Time, latent: Latent) -> tuple[Any, Any]:
        return _value(self.a, t), _value(self.b, t)

    def dab(self, t: Time, latent: Latent) -> tuple[Any, Any]:
        return _derivative(self.a, t), _derivative(self.b, t)


# --- The process ------------------------------------------------------------------------------------------------


@constant
class Interpolant:
    """x = a base + b data + gamma noise; base at t = 0, data at t = 1.

    Args:
        path: `LinearPath()`, `TrigonometricPath()`, `EncodingDecoding()`, `Mirror()`, `UserPath(a=, b=)`.
        latent: `NoLatent()` (with a linear path: rectified flow between two data sets), `Bridge(scale=)`,
            `SineSquared(scale=)`, `UserLatent(function=)`.

    Example:
        >>> import gendyn as gd, jax, jax.numpy as jnp
        >>> process = gd.processes.Interpolant(latent=gd.processes.interpolants.Bridge())
        >>> x, noise = process.perturb(jax.random.key(0), jnp.zeros((4, 2)), jnp.ones((4, 2)), 1.0)
        >>> x[0].tolist()
        [1.0, 1.0]
    """

    path: PathCoefficients = LinearPath()
    latent: Latent = NoLatent()

    t_base = 0.0
    t_data = 1.0
    gaussian_noise = True

    @property
    def interval(self) -> tuple[float, float]:
        """From base to data."""
        return self.t_base, self.t_data

    def a(self, t: Time) -> Any:
        """Coefficient of the base."""
        return self.path.ab(t, self.latent)[0]

    def b(self, t: Time) -> Any:
        """Coefficient of the data."""
        return self.path.ab(t, self.latent)[1]

    def da(self, t: Time) -> Any:
        return self.path.dab(t, self.latent)[0]

    def db(self, t: Time) -> Any:
        return self.path.dab(t, self.latent)[1]

    def gamma(self, t: Time) -> Any:
        """Coefficient of the noise."""
        return self.latent.gamma(t)

    def dgamma(self, t: Time) -> Any:
        return self.latent.dgamma(t)

    def gamma_dgamma(self, t: Time) -> Any:
        """gamma gamma', finite at the ends of a bridge too."""
        return self.latent.product(t)

    def state(self, base: Array, data: Array, noise: Array, t: Time) -> Float[Array, "batch *data"]:
        """The point of the path between given ends; t is a scalar or [batch]."""
        t = expand(jnp.asarray(t), data)
        return self.a(t) * base + self.b(t) * data + self.gamma(t) * noise

    def perturb(
        self, key: PRNGKeyArray, base: Float[Array, "batch *data"], data: Float[Array, "batch *data"], t: Time
    ) -> tuple[Float[Array, "batch *data"], Float[Array, "batch *data"]]:
        """Draw x given both ends: returns (x, noise)."""
        noise = jax.random.normal(key, data.shape, data.dtype)
        return self.state(base, data, noise, t), noise

    def one_sided(self) -> GaussianPath:
        """The same interpolant from a standard normal base: a Gaussian path, for every sampler."""
        return OneSided(interpolant=self)


@constant
class OneSided(GaussianPath):
    """An interpolant whose base is N(0, I): alpha = b, sigma = sqrt(a^2 + gamma^2); noise at t = 0, data at t = 1.

    The linear one without latent is `RectifiedFlow`, the trigonometric one `GVP`. lam must rise throughout, which
    encoding-decoding and mirror paths do not (their state forgets, or never leaves, the data).

    Args:
        interpolant: path and latent.
    """

    interpolant: Interpolant = Interpolant(latent=Bridge())
    t_noise = 0.0
    t_data = 1.0

    def __post_init__(self) -> None:
        lam = self.lam(np.linspace(0, 1, 403)[1:-1])
        if not (np.isfinite(lam).all() and (np.diff(lam) > 0).all()):
            raise ValueError(
                f"a one-sided interpolant needs alpha/sigma to rise from t = 0 to 1; {self.interpolant} does not: use "
                "a linear or trigonometric path, or the two-sided interpolant with a drawn base."
            )

    def alpha(self, t: Time) -> Any:
        return self.interpolant.b(t)

    def sigma(self, t: Time) -> Any:
        return namespace(t).sqrt(self.interpolant.a(t) ** 2 + self.interpolant.gamma(t) ** 2)

    def dalpha(self, t: Time) -> Any:
        return self.interpolant.db(t)

    def dsigma(self, t: Time) -> Any:
        inner = self.interpolant
        return (inner.a(t) * inner.da(t) + inner.gamma_dgamma(t)) / self.sigma(t)

    def t_of_lam(self, lam: Any) -> Any:
        """By bisection in the angle of t, sin^2(angle), then Newton steps: to rounding, whatever the path."""
        xp = namespace(lam)
        lam = xp.asarray(lam) * 1.0
        low, high = 0 * lam, 0 * lam + 0.5 * math.pi
        time = lambda angle: xp.sin(angle) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            for _ in range(60):
                middle = 0.5 * (low + high)
                below = self.lam(time(middle)) < lam
                low, high = xp.where(below, middle, low), xp.where(below, high, middle)
            return time(0.5 * (low + high))


INTERPOLANTS: dict[str, Callable[[], Interpolant]] = {
    "linear": lambda: Interpolant(),
    "linear_bridge": lambda: Interpolant(latent=Bridge()),
    "linear_sine": lambda: Interpolant(latent=SineSquared()),
    "trigonometric": lambda: Interpolant(path=TrigonometricPath()),
    "trigonometric_bridge": lambda: Interpolant(path=TrigonometricPath(), latent=Bridge(scale=2.0)),
    "encoding_decoding": lambda: Interpolant(path=EncodingDecoding(), latent=SineSquared()),
    "mirror": lambda: Interpolant(path=Mirror(), latent=Bridge()),
}
"""Name -> interpolant; the shared tests read this list."""
