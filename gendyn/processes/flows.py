"""Paths of the flow literature, noise at t = 0 and data at t = 1: rectified flow and the trigonometric GVP."""

from __future__ import annotations

import math
from typing import Any

from gendyn.processes.gaussian import GaussianPath, Time
from gendyn.tree import constant, namespace


class _UnitClock(GaussianPath):
    """Flows on [0, 1], exactly noise at t = 0 and exactly data at t = 1."""

    t_noise = 0.0
    t_data = 1.0


@constant
class RectifiedFlow(_UnitClock):
    """The straight path x = t data + (1 - t) noise; noise at t = 0, data at t = 1.

    Liu et al. 2023, "Flow Straight and Fast" (arXiv 2209.03003); Lipman et al. 2023, "Flow Matching for Generative
    Modeling" (arXiv 2210.02747). velocity = E[data - noise | x], t = 1/(1 + e^{-lam}).
    """

    def alpha(self, t: Time) -> Any:
        return t * 1.0

    def sigma(self, t: Time) -> Any:
        return 1.0 - t

    def dalpha(self, t: Time) -> Any:
        return namespace(t).ones_like(t) * 1.0

    def dsigma(self, t: Time) -> Any:
        return -namespace(t).ones_like(t) * 1.0

    def t_of_lam(self, lam: Any) -> Any:
        xp = namespace(lam)
        return xp.exp(-xp.logaddexp(0.0, -lam))


@constant
class GVP(_UnitClock):
    """Trigonometric path alpha = sin(pi t/2), sigma = cos(pi t/2); noise at t = 0, data at t = 1.

    Albergo and Vanden-Eijnden 2023 (arXiv 2209.15571); called GVP by Ma et al. 2024, "SiT" (arXiv 2401.08740).
    """

    def alpha(self, t: Time) -> Any:
        return namespace(t).sin(0.5 * math.pi * t)

    def sigma(self, t: Time) -> Any:
        """cos(pi t/2) as a sine of the distance to the data, exactly zero at t = 1."""
        return namespace(t).sin(0.5 * math.pi * (1 - t))

    def dalpha(self, t: Time) -> Any:
        return 0.5 * math.pi * self.sigma(t)

    def dsigma(self, t: Time) -> Any:
        return -0.5 * math.pi * self.alpha(t)

    def t_of_lam(self, lam: Any) -> Any:
        xp = namespace(lam)
        return (2 / math.pi) * xp.arctan(xp.exp(lam))
