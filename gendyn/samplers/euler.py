"""Euler's rule on the process's own clock."""

from __future__ import annotations

import numpy as np

from gendyn.processes import Process
from gendyn.samplers.ddim import first_order
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import Step, steps
from gendyn.samplers.plan import Row, SamplerPlan, assemble


def euler(process: Process, grid: Grid) -> SamplerPlan:
    """x_e = x_s + (t_e - t_s) velocity(x_s, t_s), velocity = alpha' D + sigma' eps: what flow-matching code calls
    Euler.

    One call per step, order 1. On EDM's clock and on rectified flow it coincides with DDIM, being linear in t there;
    on curved clocks (VP, GVP) it does not. Into a clean node that the clock does not reach (VE), and out of
    pure noise on a clock whose velocity is not defined there, it takes DDIM's limit.
    """
    rows = [_row(process, step) for step in steps(process, grid)]
    return assemble(process, rows, name="euler", order=1)


def _row(process: Process, step: Step) -> Row:
    if step.clean and np.isnan(step.t_e):
        sx, sm = first_order(step)
        return Row(t=step.t_s, sx=sx, sm=(sm,), clock=step.clock)
    dt = step.t_e - step.t_s
    rate = process.dsigma(step.t_s) / step.sigma_s
    return Row(
        t=step.t_s,
        sx=1 + dt * rate,
        sm=(dt * (process.dalpha(step.t_s) - rate * step.alpha_s),),
        clock=step.clock,
    )
