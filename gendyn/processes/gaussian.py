"""Arithmetic shared by every affine path x = alpha(t) data + sigma(t) noise."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.processes.noise import GaussianNoise, Noise
from gendyn.tree import expand, namespace

Time: TypeAlias = Any
"""A time on a process's own clock: float, numpy or jax array. The result follows its array module."""


@runtime_checkable
class Process(Protocol):
    """What a forward process offers; see `GaussianPath` for the meaning of each method."""

    @property
    def noise(self) -> Noise: ...
    @property
    def gaussian_noise(self) -> bool: ...
    @property
    def t_noise(self) -> float: ...
    @property
    def t_data(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float]: ...
    def alpha(self, t: Time) -> Any: ...
    def sigma(self, t: Time) -> Any: ...
    def dalpha(self, t: Time) -> Any: ...
    def dsigma(self, t: Time) -> Any: ...
    def lam(self, t: Time) -> Any: ...
    def t_of_lam(self, lam: Any) -> Any: ...
    def perturb(self, key: PRNGKeyArray, data: Array, t: Time) -> tuple[Array, Array]: ...
    def draw_noise(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = ...) -> Array: ...
    def state(self, data: Array, noise: Array, t: Time) -> Array: ...
    def sample_prior(self, key: PRNGKeyArray, shape: tuple[int, ...], t: Time = None) -> Array: ...


class GaussianPath:
    """Mixin: everything that follows from alpha, sigma, their derivatives and the inverse of lam.

    A member states `t_noise`, `t_data` (which end of its clock is which), `interval` (where samplers start and stop
    by default), `alpha`, `sigma`, `dalpha`, `dsigma` (derivatives on its own clock) and `t_of_lam`. Formulas use
    `namespace(t)`, so numpy float64 in gives numpy float64 out (planning) and jax in gives jax out (training).
    """

    @property
    def noise(self) -> Noise:
        """The law of the unit noise, Gaussian unless a process says otherwise."""
        return GaussianNoise()

    @property
    def gaussian_noise(self) -> bool:
        """Whether the noise is Gaussian: the denoiser gives the score, (alpha denoised - x)/sigma^2, and a state stays
        on the path when Gaussian noise is added. Plans that draw noise refuse other processes."""
        return self.noise.gaussian

    @property
    @abstractmethod
    def t_noise(self) -> float:
        """The end of the clock where the state is noise."""

    @property
    @abstractmethod
    def t_data(self) -> float:
        """The end of the clock where the state is data."""

    @property
    def interval(self) -> tuple[float, float]:
        """Default first and last time of a sampler: (noisier, cleaner)."""
        return self.t_noise, self.t_data

    @abstractmethod
    def alpha(self, t: Time) -> Any:
        """Coefficient of the data."""

    @abstractmethod
    def sigma(self, t: Time) -> Any:
        """Coefficient of the unit noise."""

    @abstractmethod
    def dalpha(self, t: Time) -> Any:
        """d alpha / dt on the process's own clock."""

    @abstractmethod
    def dsigma(self, t: Time) -> Any:
        """d sigma / dt on the process's own clock."""

    @abstractmethod
    def t_of_lam(self, lam: Any) -> Any:
        """The time at which log(alpha/sigma) equals `lam`."""

    def lam(self, t: Time) -> Any:
        """log(alpha/sigma): half the log signal-to-noise ratio; rises from noise to data."""
        xp = namespace(t)
        return xp.log(self.alpha(t)) - xp.log(self.sigma(t))

    def perturb(
        self, key: PRNGKeyArray, data: Float[Array, "batch *data"], t: Time
    ) -> tuple[Float[Array, "batch *data"], Float[Array, "batch *data"]]:
        """Draw x ~ p_t(x | data): returns (x, noise) with x = alpha(t) data + sigma(t) noise.

        `t` is a scalar or one time per example, [batch].
        """
        noise = self.draw_noise(key, data.shape, data.dtype)
        return self.state(data, noise, t), noise

    def draw_noise(self, key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = float) -> Float[Array, "batch *data"]:
        """Unit noise, [batch, *data], of the process's own law."""
        return self.noise.draw(key, shape, dtype)

    def state(
        self, data: Float[Array, "batch *data"], noise: Float[Array, "batch *data"], t: Time
    ) -> Float[Array, "batch *data"]:
        """The point alpha(t) data + sigma(t) noise of the path between a given pair; t is a scalar or [batch]."""
        t = expand(jnp.asarray(t), data)
        return self.alpha(t) * data + self.sigma(t) * noise

    def sample_prior(self, key: PRNGKeyArray, shape: tuple[int, ...], t: Time = None) -> Float[Array, "batch *data"]:
        """Draw the state a sampler starts from: sigma(t) noise, at `t_noise` unless `t` is given.

        Equal in law to `perturb` at that time up to the data's share alpha(t) data, which is exactly zero where
        alpha = 0 and otherwise the usual start-up bias.
        """
        sigma = float(self.sigma(self.t_noise if t is None else t))
        return sigma * self.draw_noise(key, shape)
