"""Euler-Maruyama for the reverse-time SDE, on the process's own clock."""

from __future__ import annotations

import numpy as np

from gendyn.processes import Process
from gendyn.samplers.exponential_sde import StochasticData, clocked, one_stage
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import Step, require_nonnegative, steps
from gendyn.samplers.plan import Row, SamplerPlan, assemble


def euler_maruyama(process: Process, grid: Grid, *, kappa: float = 1.0) -> SamplerPlan:
    """Euler-Maruyama on t, last step noiseless: Song et al. 2021 (arXiv 2011.13456), reverse SDE of eq. 6.

        x_e = x_s + (t_e - t_s) velocity(x_s, t_s) + kappa^2 q (alpha D - x_s) + kappa sigma sqrt(2 q) z,

    all taken at s, with q = (t_e - t_s) dlam/dt > 0. That is dx = (f x - (1 + kappa^2)/2 g^2 score) dt + kappa g dW, in
    either direction of the clock, since g^2 |dt| = 2 sigma^2 q. One call per step, weak order 1. kappa = 0 is `euler`
    inside the clock.

    The last step adds no noise, as published: up to there the strong order is 1 as well, and what is left out,
    sigma sqrt(2 q), is meant to be. Out of pure noise and into a clean node, where the drift is infinite or the clock
    does not reach, the step is the exact one for a constant D. Draws follow the clock kappa^2 lam (`exponential_sde`).

    Args:
        kappa: scale of dW: 1 is the time reversal, 0 the probability flow; eta = kappa^2 in `sde_dpmpp` and `seeds`.

    Example:
        >>> import gendyn as gd
        >>> gd.plan("euler_maruyama", gd.processes.VE(), nfe=20).noise_rows
        19
    """
    require_nonnegative("kappa", kappa)
    taken = list(steps(process, grid))
    rows = [_row(process, step, kappa, noisy=step.index + 1 < len(taken)) for step in taken]
    return assemble(process, rows, name=f"euler_maruyama(kappa={kappa:g})", order=1)


def _row(process: Process, step: Step, kappa: float, noisy: bool) -> Row:
    if step.clean or step.from_pure_noise:
        (row,) = one_stage(StochasticData(kappa**2), step)
        return row
    dt = step.t_e - step.t_s
    rate = process.dsigma(step.t_s) / step.sigma_s
    q = dt * (process.dalpha(step.t_s) / step.alpha_s - rate)
    row = Row(
        t=step.t_s,
        sx=1 + dt * rate - kappa**2 * q,
        sm=((1 + kappa**2) * q * step.alpha_s,),
        sn=(kappa * step.sigma_s * np.sqrt(2 * q) if noisy else 0.0,) if kappa else (),
        clock=step.clock,
    )
    return clocked(row, step, kappa**2)
