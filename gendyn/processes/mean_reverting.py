"""The mean-reverting path of image restoration, and how its rate is spread over the clock.

With mu the degraded image, dx = theta (mu - x) dt + g dw and the stationary link g^2 = 2 sigma_inf^2 theta give

    x = alpha data + (1 - alpha) mu + sigma noise,   alpha = exp(-int theta),   sigma = sigma_inf sqrt(1 - alpha^2),

so the deviation z = x - mu is an ordinary Gaussian path between the deviation of the data and noise. mu belongs to a
sample, not to the process: the process here is that of z, and `gendyn.control.anchored` puts mu back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from gendyn.processes.gaussian import GaussianPath, Time
from gendyn.tree import constant, namespace

NEWTON = 6  # log-log Newton steps of `Cosine.t_of_share`; four reach the last bit on [1e-4, 1]


class Schedule(Protocol):
    """The shape of theta on [0, 1]. `share(t)` is int_0^t theta / int_0^1 theta; the process knows the whole."""

    def share(self, t: Any) -> Any: ...
    def dshare(self, t: Any) -> Any: ...
    def t_of_share(self, share: Any) -> Any: ...


@constant
class Constant:
    """theta constant."""

    def share(self, t: Any) -> Any:
        return t * 1.0

    def dshare(self, t: Any) -> Any:
        return namespace(t).ones_like(t) * 1.0

    def t_of_share(self, share: Any) -> Any:
        return share * 1.0


@constant
class Linear:
    """theta rises linearly, theta(1)/theta(0) = ratio; 200 is DDPM's table and VP-linear's (0.1, 20)."""

    ratio: float = 200.0

    def __post_init__(self) -> None:
        if not self.ratio > 0:
            raise ValueError(f"ratio = theta(1)/theta(0) must be positive; got {self.ratio}.")

    def share(self, t: Any) -> Any:
        return (2 * t + (self.ratio - 1) * t**2) / (self.ratio + 1)

    def dshare(self, t: Any) -> Any:
        return 2 * (1 + (self.ratio - 1) * t) / (self.ratio + 1)

    def t_of_share(self, share: Any) -> Any:
        """The root in the form without cancellation."""
        scaled = (self.ratio + 1) * share
        return scaled / (1 + namespace(share).sqrt(1 + (self.ratio - 1) * scaled))


@constant
class Cosine:
    """theta proportional to 1 - cos^2(u)/cos^2(u_0), u = (pi/2)(t + s)/(1 + s), u_0 = u(0): one minus the squared
    alpha of the cosine path, the schedule of the IR-SDE code. It starts at theta(0) = 0.

    With d = u - u_0 the integral is proportional to cos(2 u_0)(d - sin d cos d) + sin(2 u_0) sin^2 d.
    """

    s: float = 0.008

    @property
    def _u_0(self) -> float:
        return 0.5 * math.pi * self.s / (1 + self.s)

    def _d(self, t: Any) -> Any:
        return 0.5 * math.pi * t / (1 + self.s)

    def _integral(self, d: Any) -> Any:
        u_0, sin = self._u_0, namespace(d).sin
        return 0.5 * math.cos(2 * u_0) * _angle_minus_sine(2 * d) + math.sin(2 * u_0) * sin(d) ** 2

    @property
    def _whole(self) -> float:
        return float(self._integral(np.float64(self._d(1.0))))

    def share(self, t: Any) -> Any:
        return self._integral(self._d(t)) / self._whole

    def dshare(self, t: Any) -> Any:
        d, sin = self._d(t), namespace(t).sin
        return math.pi / (1 + self.s) * sin(d) * sin(d + 2 * self._u_0) / self._whole

    def t_of_share(self, share: Any) -> Any:
        """Newton in (log t, log share), where the curve is nearly straight: its slope falls from 3 to 2."""
        xp = namespace(share)
        share = xp.asarray(share) * 1.0
        target = xp.maximum(share, xp.finfo(share.dtype).tiny)
        t = target ** (1 / 3)
        for _ in range(NEWTON):
            value = self.share(t)
            t = t * xp.exp((xp.log(target) - xp.log(value)) * value / (t * self.dshare(t)))
        return xp.where(share > 0, t, 0.0 * share)


def _angle_minus_sine(x: Any) -> Any:
    """x - sin x, by its series below 1, where the difference cancels."""
    xp = namespace(x)
    small = xp.minimum(x, 1.0)
    series = 1.0
    for k in range(10, 0, -1):
        series = 1 - small**2 / ((2 * k + 2) * (2 * k + 3)) * series
    return xp.where(x < 1.0, small**3 / 6 * series, x - xp.sin(x))


@constant
class Table:
    """theta piecewise linear through values at equally spaced times of [0, 1]: any schedule, integrated and inverted
    exactly. `Table.of(function)` takes the values from a function of t.

    >>> float(Table(theta=(1.0, 1.0)).share(0.25))
    0.25
    """

    theta: tuple[float, ...]

    def __post_init__(self) -> None:
        theta = tuple(float(value) for value in self.theta)
        if len(theta) < 2 or min(theta) < 0 or min(theta[1:]) <= 0:
            raise ValueError("a table needs at least two values of theta, positive (zero at t = 0 is legal).")
        object.__setattr__(self, "theta", theta)

    @classmethod
    def of(cls, function: Callable[[float], float], nodes: int = 257) -> Table:
        """The table of a function of t in [0, 1] at so many nodes."""
        return cls(theta=tuple(float(function(float(t))) for t in np.linspace(0.0, 1.0, nodes)))

    def _segment(self, index: Any, like: Any) -> tuple[Any, ...]:
        """Start, share and rate there, and the rate's slope, of a segment, in the precision of `like`."""
        xp, columns = namespace(like), _segments(self.theta)
        index = xp.clip(index, 0, len(columns[0]) - 1)
        return tuple(xp.asarray(column, like.dtype)[index] for column in columns)

    def _at(self, t: Any) -> tuple[Any, ...]:
        xp = namespace(t)
        t = xp.asarray(t) * 1.0
        node, share, rate, slope = self._segment(xp.floor(t * (len(self.theta) - 1)).astype(int), t)
        return t - node, share, rate, slope

    def share(self, t: Any) -> Any:
        past, share, rate, slope = self._at(t)
        return share + past * (rate + 0.5 * slope * past)

    def dshare(self, t: Any) -> Any:
        past, _, rate, slope = self._at(t)
        return rate + slope * past

    def t_of_share(self, share: Any) -> Any:
        xp = namespace(share)
        share = xp.asarray(share) * 1.0
        index = xp.searchsorted(xp.asarray(_segments(self.theta)[1], share.dtype), share, side="right") - 1
        node, before, rate, slope = self._segment(index, share)
        rest = xp.maximum(share - before, 0.0)
        root = rate + xp.sqrt(xp.maximum(rate**2 + 2 * slope * rest, 0.0))
        return node + 2 * rest / xp.where(root > 0, root, 1.0)


@lru_cache(maxsize=64)
def _segments(theta: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    values, step = np.asarray(theta, np.float64), 1.0 / (len(theta) - 1)
    pieces = 0.5 * step * (values[1:] + values[:-1])
    whole = pieces.sum()
    nodes = np.arange(len(theta) - 1) * step
    return nodes, np.r_[0.0, np.cumsum(pieces)[:-1]] / whole, values[:-1] / whole, np.diff(values) / (step * whole)


@constant
class MeanReverting(GaussianPath):
    """The deviation z = x - mu of a mean-reverting (Ornstein-Uhlenbeck) diffusion; data at t = 0, noise at t = 1.

        alpha = exp(-B share(t)),   sigma = sigma_inf sqrt(1 - alpha^2),   B = -log(terminal)

    Luo et al. 2023, "Image Restoration with Mean-Reverting Stochastic Differential Equations" (arXiv 2301.11699).
    alpha^2 + (sigma/sigma_inf)^2 = 1; sigma_inf = 1 is variance preserving. The path ends at x = mu + terminal
    (data - mu) + sigma noise, whereas samplers start from mu + sigma noise: a fixed bias of terminal |data - mu|, in
    units of the noise 0.026 |data - mu| at the defaults. Samplers stop where sigma is sigma_inf/100, by default half a
    grey level of data in [0, 1].

    Args:
        sigma_inf: standard deviation of the stationary noise; 50/255 for data in [0, 1], twice that in [-1, 1].
        schedule: shape of theta: `Constant()`, `Linear(ratio=)`, `Cosine(s=)`, or `Table.of(function)`.
        terminal: alpha at t = 1; it fixes the scale of theta.

    >>> process = MeanReverting()
    >>> round(float(process.alpha(1.0)), 6), round(float(process.sigma(1.0)) * 255, 3)
    (0.005, 49.999)
    """

    sigma_inf: float = 50 / 255
    schedule: Schedule = Cosine()
    terminal: float = 0.005
    t_noise = 1.0
    t_data = 0.0

    def __post_init__(self) -> None:
        if not (self.sigma_inf > 0 and 0 < self.terminal < 1):
            raise ValueError(
                f"MeanReverting needs sigma_inf > 0 and terminal = alpha(1) inside (0, 1); got sigma_inf = "
                f"{self.sigma_inf}, terminal = {self.terminal}."
            )

    @property
    def interval(self) -> tuple[float, float]:
        variance = 1e-4  # of sigma_inf^2
        return self.t_noise, float(self.t_of_integral(np.float64(-0.5 * np.log1p(-variance))))

    @property
    def whole(self) -> float:
        """The integral of theta over the clock, B."""
        return -math.log(self.terminal)

    def theta(self, t: Time) -> Any:
        """The rate of reversion to mu."""
        return self.whole * self.schedule.dshare(t)

    def integral(self, t: Time) -> Any:
        """int_0^t theta = -log alpha."""
        return self.whole * self.schedule.share(t)

    def t_of_integral(self, integral: Any) -> Any:
        return self.schedule.t_of_share(integral / self.whole)

    def alpha(self, t: Time) -> Any:
        return namespace(t).exp(-self.integral(t))

    def sigma(self, t: Time) -> Any:
        xp = namespace(t)
        return self.sigma_inf * xp.sqrt(-xp.expm1(-2 * self.integral(t)))

    def dalpha(self, t: Time) -> Any:
        return -self.theta(t) * self.alpha(t)

    def dsigma(self, t: Time) -> Any:
        """sigma_inf^2 theta alpha^2/sigma; infinite or undefined at t = 0, where sigma is zero."""
        return self.sigma_inf**2 * self.theta(t) * self.alpha(t) ** 2 / self.sigma(t)

    def lam(self, t: Time) -> Any:
        xp = namespace(t)
        integral = self.integral(t)
        return -integral - math.log(self.sigma_inf) - 0.5 * xp.log(-xp.expm1(-2 * integral))

    def t_of_lam(self, lam: Any) -> Any:
        xp = namespace(lam)
        return self.t_of_integral(0.5 * xp.logaddexp(0.0, -2 * (lam + math.log(self.sigma_inf))))
