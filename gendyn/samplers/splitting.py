"""Samplers split in two moves per step: one step of any deterministic solver, and Gaussian noise.

A solver of the probability flow that needs no past steps is a plan on a grid of one step, and its rows can be spliced
into any other plan. That is all that ancestral sampling and Langevin corrections ask of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from gendyn.processes import Process
from gendyn.samplers.ddim import ddim
from gendyn.samplers.dpm_solver import dpmpp
from gendyn.samplers.exponential_sde import clocked
from gendyn.samplers.grids import Grid, subdivide
from gendyn.samplers.levels import Step, require_nonnegative, steps
from gendyn.samplers.plan import Row, SamplerPlan, assemble
from gendyn.samplers.runge_kutta import dpm2

Solver: TypeAlias = Callable[[Process, Grid], SamplerPlan]
"""A deterministic solver; it is given grids of one step."""


def rows_of(plan: SamplerPlan) -> list[Row]:
    """The rows of a plan, as `assemble` takes them."""
    return [
        Row(
            t=plan.t[i],
            call=bool(plan.call[i]),
            clock=(plan.clock[i, 0], plan.clock[i, 1]),
            **{name: getattr(plan, name)[i] for name in ("ex", "ec", "oy", "om", "sx", "sc")},
            **{name: tuple(getattr(plan, name)[i]) for name in ("em", "sm", "en", "sn")},
        )
        for i in range(plan.rows)
    ]


def crossing(process: Process, solver: Solver, step: Step) -> SamplerPlan:
    """The solver's plan for one step.

    Raises:
        ValueError: a solver that adds noise itself.
    """
    ends = ((step.t_s, step.t_e), (step.alpha_s, step.alpha_e), (step.sigma_s, step.sigma_e))
    t, alpha, sigma = (np.asarray(pair, np.float64) for pair in ends)
    plan = solver(process, Grid(t=t, alpha=alpha, sigma=sigma, process=process))
    if plan.draws:
        raise ValueError(
            f"the solver to be split must be deterministic, but {plan.name} draws noise: pass it with eta=0."
        )
    return plan


def ancestral_split(process: Process, grid: Grid, *, solver: Solver = ddim, eta: float = 1.0) -> SamplerPlan:
    """Ancestral sampling with any single-step solver: k-diffusion's split. In y = x/alpha and rho = sigma/alpha,

        rho_up = eta rho_e sqrt(1 - rho_e^2/rho_s^2),    rho_down^2 = rho_e^2 - rho_up^2:
        y_down = one step of the solver from rho_s to rho_down;    y_e = y_down + rho_up z.

    Both moves keep to the path's marginals, so the error of these is the solver's own, and so are order and calls. With
    `ddim` this is `ddim(eta)`, k-diffusion's euler_ancestral. At eta = 0, and into a clean node, it is the solver. A
    solver that evaluates at the end of its step does so at rho_down, which may lie below the grid's last node.

    The clock of the draws is eta^2 lam, on which the sampler converges along one path to the SDE of that noise level;
    for eta = 1 and a constant D it follows that path exactly.

    Args:
        solver: (process, grid of one step) -> deterministic plan: ddim, heun, dpm2, deis_rk, a partial of them.
        eta: from 0 to 1, scales the standard deviation of the noise.

    Example:
        >>> import gendyn as gd
        >>> process = gd.processes.EDM()
        >>> ancestral_split(process, gd.samplers.grids.karras(process, n=5), solver=gd.samplers.heun).name
        'heun_ancestral'
    """
    require_nonnegative("eta", eta)
    if eta > 1:
        raise ValueError(f"eta must lie in [0, 1] (1 is ancestral sampling); got {eta}.")
    taken = [(step, _lowered(process, step, eta)) for step in steps(process, grid)]
    plans = [crossing(process, solver, lowered) for _, lowered in taken]
    rows = [row for (step, lowered), plan in zip(taken, plans) for row in _lifted(step, lowered, rows_of(plan), eta)]
    whole = max(plans, key=lambda plan: plan.order)
    return assemble(process, rows, name=f"{whole.name}_ancestral", order=whole.order)


def _up(step: Step, eta: float) -> Any:
    """rho_up/rho_e; nothing is added at a clean node."""
    return 0.0 if step.clean else eta * np.sqrt(-np.expm1(-2 * step.h))


def _lowered(process: Process, step: Step, eta: float) -> Step:
    """The step that ends at rho_down instead of rho_e, on the process's path; clean if the noise is all of rho_e."""
    kept = np.sqrt(1 - _up(step, eta) ** 2)
    if kept == 1:
        return step
    if kept == 0:
        return dataclasses.replace(step, t_e=np.nan, alpha_e=1.0, sigma_e=0.0)
    t = process.t_of_lam(np.log(step.alpha_e) - np.log(step.sigma_e) - np.log(kept))
    return dataclasses.replace(step, t_e=t, alpha_e=process.alpha(t), sigma_e=process.sigma(t))


def _lifted(step: Step, lowered: Step, rows: list[Row], eta: float) -> list[Row]:
    """The solver's rows to rho_down, the last one brought to alpha_e and given the noise."""
    if not eta:
        return rows
    *inner, last = rows
    scale, noise = step.alpha_e / lowered.alpha_e, step.sigma_e * _up(step, eta)
    last = dataclasses.replace(last, sx=scale * last.sx, sm=tuple(scale * v for v in last.sm), sn=(noise,))
    return [*(silent(row, step) for row in inner), clocked(last, step, eta**2)]


def silent(row: Row, step: Step) -> Row:
    """The row with an empty interval on the clock, where `step` starts: it owns no noise."""
    return dataclasses.replace(row, clock=(step.clock[0], step.clock[0]))


def dpm2_ancestral(process: Process, grid: Grid, *, eta: float = 1.0) -> SamplerPlan:
    """k-diffusion's dpm_2_ancestral: the ancestral split of `dpm2`. Two calls per step, one into a clean node."""
    return ancestral_split(process, grid, solver=dpm2, eta=eta)


def dpmpp_2s_ancestral(process: Process, grid: Grid, *, eta: float = 1.0) -> SamplerPlan:
    """k-diffusion's dpmpp_2s_ancestral: the split of DPM-Solver++(2S) with its stage at the middle of the lowered step.

    Two calls per step, one into a clean node.
    """
    return ancestral_split(process, grid, solver=_two_stage, eta=eta)


def _two_stage(process: Process, grid: Grid) -> SamplerPlan:
    """One step of DPM-Solver++(2S); at the ends of the path, of DDIM."""
    if grid.clean or grid.from_pure_noise:
        return ddim(process, grid)
    return dpmpp(process, subdivide(grid, (2,)), order=2, kind="singlestep")
