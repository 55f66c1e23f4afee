"""Variance-preserving paths, alpha^2 + sigma^2 = 1: linear and cosine rates, discrete tables, and sub-VP."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import lru_cache
from typing import Any

import numpy as np

from gendyn.processes.gaussian import GaussianPath, Time
from gendyn.tree import constant, namespace


class _UnitVariance(GaussianPath):
    """Paths given by log alpha with sigma = sqrt(1 - alpha^2), noise at t = 1 and data at t = 0."""

    t_noise = 1.0
    t_data = 0.0

    @abstractmethod
    def log_alpha(self, t: Time) -> Any:
        """log alpha(t)."""

    @abstractmethod
    def dlog_alpha(self, t: Time) -> Any:
        """d log alpha / dt."""

    def alpha(self, t: Time) -> Any:
        return namespace(t).exp(self.log_alpha(t))

    def sigma(self, t: Time) -> Any:
        xp = namespace(t)
        return xp.sqrt(-xp.expm1(2 * self.log_alpha(t)))

    def dalpha(self, t: Time) -> Any:
        return self.alpha(t) * self.dlog_alpha(t)

    def dsigma(self, t: Time) -> Any:
        """-alpha alpha' / sigma; infinite at t = 0, where sigma leaves zero like sqrt(t)."""
        return -(self.alpha(t) ** 2) * self.dlog_alpha(t) / self.sigma(t)

    def lam(self, t: Time) -> Any:
        xp = namespace(t)
        log_alpha = self.log_alpha(t)
        return log_alpha - 0.5 * xp.log(-xp.expm1(2 * log_alpha))


def _log_alpha_of_lam(lam: Any) -> Any:
    """log alpha = -log(1 + e^{-2 lam}) / 2, the inverse of lam on any path of unit variance."""
    return -0.5 * namespace(lam).logaddexp(0.0, -2 * lam)


class _LinearRate:
    """beta(t) = beta_min + (beta_max - beta_min) t, integral B(t): the rates that VP-linear and sub-VP share."""

    beta_min: float
    beta_max: float

    def beta(self, t: Time) -> Any:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def integral(self, t: Time) -> Any:
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2

    def t_of_integral(self, integral: Any) -> Any:
        """The root of B(t) = integral in the form without cancellation."""
        xp = namespace(integral)
        slope = self.beta_max - self.beta_min
        return 2 * integral / (xp.sqrt(self.beta_min**2 + 2 * slope * integral) + self.beta_min)


@constant
class VPLinear(_LinearRate, _UnitVariance):
    """Variance-preserving diffusion with a linear rate; data at t = 0, noise at t = 1.

    log alpha(t) = -B(t)/2, B(t) = beta_min t + (beta_max - beta_min) t^2 / 2, sigma = sqrt(1 - alpha^2):
    Song et al. 2021, "Score-Based Generative Modeling through SDEs" (arXiv 2011.13456), eq. 29. Samplers stop at
    t = 1e-3 by default, where sigma is about 0.01.

    >>> float(VPLinear().alpha(1.0))  # doctest: +ELLIPSIS
    0.00657...
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    interval = (1.0, 1e-3)

    def log_alpha(self, t: Time) -> Any:
        return -0.5 * self.integral(t)

    def dlog_alpha(self, t: Time) -> Any:
        return -0.5 * self.beta(t)

    def t_of_lam(self, lam: Any) -> Any:
        return self.t_of_integral(-2 * _log_alpha_of_lam(lam))


@constant
class VPCosine(_UnitVariance):
    """Cosine path; data at t = 0, noise at t = 1 (alpha = 0 there; samplers start at t = 0.9946).

    alpha(t) = cos(u)/cos(u_0) with u = (pi/2)(t + s)/(1 + s), u_0 = u(0): Nichol and Dhariwal 2021, "Improved
    Denoising Diffusion Probabilistic Models" (arXiv 2102.09672), eq. 17, continuous and unclipped.
    """

    s: float = 0.008
    interval = (0.9946, 1e-3)

    def _angle(self, t: Time) -> Any:
        return 0.5 * math.pi * (t + self.s) / (1 + self.s)

    def alpha(self, t: Time) -> Any:
        """cos u / cos u_0 written as a sine of the distance to t = 1, which is exactly zero there."""
        xp = namespace(t)
        return xp.sin(0.5 * math.pi * (1 - t) / (1 + self.s)) / math.cos(self._angle(0.0))

    def sigma(self, t: Time) -> Any:
        """sigma^2 = sin(u - u_0) sin(u + u_0) / cos^2 u_0, free of cancellation near the data."""
        xp = namespace(t)
        u, u_0 = self._angle(t), self._angle(0.0)
        return xp.sqrt(xp.sin(0.5 * math.pi * t / (1 + self.s)) * xp.sin(u + u_0)) / math.cos(u_0)

    def log_alpha(self, t: Time) -> Any:
        return namespace(t).log(self.alpha(t))

    def dlog_alpha(self, t: Time) -> Any:
        return -0.5 * math.pi / (1 + self.s) * namespace(t).tan(self._angle(t))

    def dalpha(self, t: Time) -> Any:
        return -0.5 * math.pi / (1 + self.s) * namespace(t).sin(self._angle(t)) / math.cos(self._angle(0.0))

    def dsigma(self, t: Time) -> Any:
        return -self.alpha(t) * self.dalpha(t) / self.sigma(t)

    def lam(self, t: Time) -> Any:
        xp = namespace(t)
        return xp.log(self.alpha(t)) - xp.log(self.sigma(t))

    def t_of_lam(self, lam: Any) -> Any:
        """Near the noise by arcsin(alpha cos u_0); near the data by the root of the sigma formula in tan(u - u_0).

        Each form keeps full relative precision on its own side: sin d sin(d + 2 u_0) = q with d = u - u_0 and
        q = sigma^2 cos^2 u_0 is quadratic in tan d.
        """
        xp = namespace(lam)
        u_0, clock = self._angle(0.0), 2 * (1 + self.s) / math.pi
        near_noise = 1 - clock * xp.arcsin(xp.exp(_log_alpha_of_lam(lam)) * math.cos(u_0))
        q = xp.exp(-xp.logaddexp(0.0, 2 * lam)) * math.cos(u_0) ** 2
        b = math.sin(2 * u_0)
        root = xp.sqrt(xp.maximum(b**2 + 4 * q * (math.cos(2 * u_0) - q), 0.0))
        near_data = clock * xp.arctan(2 * q / (b + root))
        return xp.where(lam < 0, near_noise, near_data)


@lru_cache(maxsize=64)
def _log_alpha_table(betas: tuple[float, ...]) -> np.ndarray:
    return 0.5 * np.cumsum(np.log1p(-np.asarray(betas, np.float64)))


@constant
class VPDiscrete(_UnitVariance):
    """A discrete DDPM schedule beta_1..beta_N made continuous; data at t = 1/N, noise at t = 1.

    log alpha is piecewise linear through (n/N, 1/2 sum_{m<=n} log(1 - beta_m)), the end segments extrapolating:
    Lu et al. 2022, "DPM-Solver" (arXiv 2206.00927), appendix D. A network trained on integer labels 0..N-1 takes
    the fractional label N t - 1, see `gendyn.predictions.discrete`. Derivatives are those of the segment to the
    right of a node. Tables: `linear`, `scaled_linear`, `cosine`.

    >>> VPDiscrete.linear().betas[0]
    0.0001
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        betas = tuple(float(b) for b in self.betas)
        if len(betas) < 2 or not all(0 < b < 1 for b in betas):
            raise ValueError(f"VPDiscrete needs at least two betas, each inside (0, 1); got {len(betas)} values.")
        object.__setattr__(self, "betas", betas)

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> VPDiscrete:
        """Equally spaced betas: Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239)."""
        return cls(betas=tuple(np.linspace(beta_start, beta_end, steps)))

    @classmethod
    def scaled_linear(cls, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> VPDiscrete:
        """Equally spaced square roots of beta: Rombach et al. 2022, "Latent Diffusion Models" (arXiv 2112.10752)."""
        return cls(betas=tuple(np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), steps) ** 2))

    @classmethod
    def cosine(cls, steps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> VPDiscrete:
        """beta_n = min(1 - alpha^2(n/N)/alpha^2((n-1)/N), max_beta): Nichol and Dhariwal 2021 (arXiv 2102.09672)."""
        alpha = VPCosine(s=s).alpha(np.arange(steps + 1) / steps)
        return cls(betas=tuple(np.minimum(1 - (alpha[1:] / alpha[:-1]) ** 2, max_beta)))

    @property
    def t_data(self) -> float:  # type: ignore[override]
        return 1.0 / len(self.betas)

    @property
    def interval(self) -> tuple[float, float]:  # type: ignore[override]
        return 1.0, self.t_data

    def _segment(self, index: Any, like: Any) -> tuple[Any, Any, Any]:
        """Node, value there and slope of the segment that starts at table entry `index`, in the precision of `like`."""
        xp, table = namespace(like), _log_alpha_table(self.betas)
        index = xp.clip(index, 0, len(table) - 2)
        columns = np.arange(1, len(table)) / len(table), table[:-1], np.diff(table) * len(table)
        node, value, slope = (xp.asarray(column, like.dtype)[index] for column in columns)
        return node, value, slope

    def _at(self, t: Time) -> tuple[Any, Any, Any]:
        xp = namespace(t)
        t = xp.asarray(t) * 1.0
        # Nodes are n/N: the tolerance keeps a node on its own right-hand segment in either precision.
        return self._segment(xp.floor(t * len(self.betas) * (1 + 1e-12)).astype(int) - 1, t)

    def log_alpha(self, t: Time) -> Any:
        node, value, slope = self._at(t)
        return value + slope * (t - node)

    def dlog_alpha(self, t: Time) -> Any:
        return self._at(t)[2]

    def t_of_lam(self, lam: Any) -> Any:
        xp = namespace(lam)
        log_alpha = xp.asarray(_log_alpha_of_lam(lam))
        table = xp.asarray(-_log_alpha_table(self.betas), log_alpha.dtype)
        index = xp.searchsorted(table, -log_alpha, side="right") - 1
        node, value, slope = self._segment(index, log_alpha)
        return node + (log_alpha - value) / slope


@constant
class SubVP(_LinearRate, GaussianPath):
    """Sub-variance-preserving path: VP-linear's alpha with sigma = 1 - alpha^2; data at t = 0, noise at t = 1.

    Song et al. 2021 (arXiv 2011.13456), eq. 29. lam(t) = -log(2 sinh(B(t)/2)).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_noise = 1.0
    t_data = 0.0
    interval = (1.0, 1e-3)

    def alpha(self, t: Time) -> Any:
        return namespace(t).exp(-0.5 * self.integral(t))

    def sigma(self, t: Time) -> Any:
        return -namespace(t).expm1(-self.integral(t))

    def dalpha(self, t: Time) -> Any:
        return -0.5 * self.beta(t) * self.alpha(t)

    def dsigma(self, t: Time) -> Any:
        return self.beta(t) * self.alpha(t) ** 2

    def t_of_lam(self, lam: Any) -> Any:
        xp = namespace(lam)
        return self.t_of_integral(2 * xp.arcsinh(0.5 * xp.exp(-lam)))
