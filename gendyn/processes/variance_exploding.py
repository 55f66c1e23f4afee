"""Variance-exploding paths, alpha = 1: Song's geometric clock and EDM, whose clock is sigma itself."""

from __future__ import annotations

import math
from typing import Any

from gendyn.processes.gaussian import GaussianPath, Time
from gendyn.tree import constant, namespace


class _UnitSignal(GaussianPath):
    """Paths with alpha = 1, so that lam = -log sigma."""

    def alpha(self, t: Time) -> Any:
        return namespace(t).ones_like(t) * 1.0

    def dalpha(self, t: Time) -> Any:
        return namespace(t).zeros_like(t) * 1.0


@constant
class VE(_UnitSignal):
    """sigma(t) = sigma_min (sigma_max/sigma_min)^t; noise at t = 1; at t = 0 the data plus sigma_min noise.

    Song et al. 2021 (arXiv 2011.13456), eq. 9 with the simple form of the kernel that everyone uses: the exact kernel
    of the SDE started on data would have variance sigma(t)^2 - sigma_min^2.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_noise = 1.0
    t_data = 0.0

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, t: Time) -> Any:
        return self.sigma_min * namespace(t).exp(self._rate * t)

    def dsigma(self, t: Time) -> Any:
        return self._rate * self.sigma(t)

    def lam(self, t: Time) -> Any:
        return -math.log(self.sigma_min) - self._rate * t

    def t_of_lam(self, lam: Any) -> Any:
        return (-lam - math.log(self.sigma_min)) / self._rate


@constant
class Scaled(_UnitSignal):
    """x = data + t noise: the clock is sigma; noise at sigma_max, data at 0; samplers run sigma_max -> sigma_min."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    t_data = 0.0

    @property
    def t_noise(self) -> float:  # type: ignore[override]
        return self.sigma_max

    @property
    def interval(self) -> tuple[float, float]:  # type: ignore[override]
        return self.sigma_max, self.sigma_min

    def sigma(self, t: Time) -> Any:
        return t * 1.0

    def dsigma(self, t: Time) -> Any:
        return namespace(t).ones_like(t) * 1.0

    def t_of_lam(self, lam: Any) -> Any:
        return namespace(lam).exp(-lam)


@constant
class EDM(Scaled):
    """x = data + t noise with Gaussian noise; the clock is sigma, from sigma_max (noise) to 0 (data).

    Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364).
    """
