"""EDM's sampler: Heun's rule in sigma/alpha, with churn."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gendyn.processes import Process
from gendyn.samplers.ddim import first_order
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import Step, require_nonnegative, steps
from gendyn.samplers.plan import Row, SamplerPlan, assemble


@dataclasses.dataclass(frozen=True, kw_only=True)
class Churn:
    """Noise added before each step: EDM's S_churn, S_min, S_max, S_noise, the levels in sigma/alpha.

    Karras et al. 2022 (arXiv 2206.00364), algorithm 2: gamma = min(amount/n, sqrt(2) - 1) where low <= sigma/alpha <=
    high.
    """

    amount: float
    low: float = 0.0
    high: float = float("inf")
    noise: float = 1.0

    def gamma(self, level: float, n: int) -> float:
        return min(self.amount / n, np.sqrt(2.0) - 1) if self.low <= level <= self.high else 0.0


def heun(process: Process, grid: Grid, *, churn: Churn | float | None = None) -> SamplerPlan:
    """EDM's (stochastic) Heun: Karras et al. 2022 (arXiv 2206.00364), algorithms 1 and 2, on any path.

    In y = x/alpha and rho = sigma/alpha: churn raises rho to (1 + gamma) rho, then the trapezoidal rule on
    dy/drho = (y - D)/rho. Two calls per step, one on a step that ends clean (2n - 1 calls on a Karras grid);
    order 2. A step out of pure noise (alpha = 0) is DDIM's limit, one call.

    Args:
        churn: a `Churn`, or S_churn alone; None for the deterministic sampler.

    Example:
        >>> import gendyn as gd
        >>> process = gd.processes.EDM()
        >>> heun(process, gd.samplers.grids.karras(process, n=18)).nfe
        35
    """
    churn = Churn(amount=churn) if isinstance(churn, int | float) else churn
    if churn is not None:
        require_nonnegative("churn", churn.amount)
    rows = [row for step in steps(process, grid) for row in _rows(process, step, grid.steps, churn)]
    return assemble(process, rows, name="heun" if churn is None else "heun(churn)", order=2)


def _rows(process: Process, step: Step, n: int, churn: Churn | None) -> list[Row]:
    if step.from_pure_noise:
        sx, sm = first_order(step)
        return [Row(t=step.t_s, sx=sx, sm=(sm,), sn=(0.0,) if churn else (), clock=step.clock)]
    level = step.sigma_s / step.alpha_s
    gamma = churn.gamma(level, n) if churn else 0.0
    start, keep, noise = _raise(process, step, gamma, churn.noise if churn else 1.0)
    added = (noise,) if churn else ()
    if step.clean:
        return [Row(t=start.t_s, ex=keep, en=added, sx=0.0, sm=(step.alpha_e,), clock=step.clock)]
    return [
        Row(t=start.t_s, ex=keep, en=added, sx=keep, sn=added, clock=step.clock),
        _second_stage(start),
    ]


def _raise(process: Process, step: Step, gamma: float, scale: float) -> tuple[Step, Any, Any]:
    """The step started from the raised noise level, and x_hat = keep x + noise z that brings the state there."""
    if gamma == 0.0:
        return step, 1.0, 0.0
    level = (1 + gamma) * step.sigma_s / step.alpha_s
    t = process.t_of_lam(-np.log(level))
    alpha, sigma = process.alpha(t), process.sigma(t)
    added = scale * alpha * step.sigma_s / step.alpha_s * np.sqrt(gamma * (2 + gamma))
    h = step.h + np.log1p(gamma)
    return dataclasses.replace(step, t_s=t, alpha_s=alpha, sigma_s=sigma, h=h), alpha / step.alpha_s, added


def _second_stage(step: Step) -> Row:
    """Euler to the end, then the mean of both slopes: newest output first in the window."""
    sx, sm = first_order(step)
    rho_s, rho_e = step.sigma_s / step.alpha_s, step.sigma_e / step.alpha_e
    half = 0.5 * (rho_e - rho_s) * step.alpha_e
    return Row(
        t=step.t_e,
        ex=sx,
        em=(sm,),
        sx=sx,
        sm=(-half / rho_e, half * (1 / rho_e - 2 / rho_s)),
        clock=(step.clock[1], step.clock[1]),
    )
