"""Runge-Kutta in rho = sigma/alpha on d(x/alpha)/d rho = eps: DEIS's rhoRK, and DPM-Solver-2 as k-diffusion has it."""

from __future__ import annotations

import dataclasses
from typing import Any

from gendyn.processes import Process
from gendyn.samplers.forms import FORMS, staged
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import Step, steps
from gendyn.samplers.plan import Row, SamplerPlan, assemble
from gendyn.tree import namespace


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tableau:
    """An explicit Runge-Kutta rule: stage i at fraction sum_j a_ij from stages before it, then weights b."""

    a: tuple[tuple[Any, ...], ...]
    b: tuple[Any, ...]
    order: int


TABLEAUX = {
    "heun2": Tableau(a=((1,),), b=(1 / 2, 1 / 2), order=2),
    "kutta3": Tableau(a=((1 / 2,), (-1, 2)), b=(1 / 6, 4 / 6, 1 / 6), order=3),
    "ralston3": Tableau(a=((1 / 2,), (0, 3 / 4)), b=(2 / 9, 3 / 9, 4 / 9), order=3),
    "heun3": Tableau(a=((1 / 3,), (0, 2 / 3)), b=(1 / 4, 0, 3 / 4), order=3),
    "houwen3": Tableau(a=((8 / 15,), (1 / 4, 5 / 12)), b=(1 / 4, 0, 3 / 4), order=3),
    "ssprk3": Tableau(a=((1,), (1 / 4, 1 / 4)), b=(1 / 6, 1 / 6, 4 / 6), order=3),
    "rk4": Tableau(a=((1 / 2,), (0, 1 / 2), (0, 0, 1)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6), order=4),
}
"""The tableaux of DEIS's rhoRK (Euler is DDIM); houwen3 is van der Houwen's."""


def deis_rk(process: Process, grid: Grid, *, method: str = "kutta3") -> SamplerPlan:
    """DEIS rhoRK: Zhang and Chen 2023 (arXiv 2204.13902). One call per stage of `TABLEAUX[method]` and step.

    A step out of pure noise or into a clean node is DDIM's, one call. "heun2" is EDM's deterministic sampler.

    Example:
        >>> import gendyn as gd
        >>> process = gd.processes.EDM()
        >>> deis_rk(process, gd.samplers.grids.karras(process, n=4, final_zero=False), method="rk4").nfe
        16
    """
    if method not in TABLEAUX:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(TABLEAUX)}.")
    tableau = TABLEAUX[method]
    rows = [row for step in steps(process, grid) for row in _rows(process, step, tableau)]
    return assemble(process, rows, name=f"deis_rk({method})", order=tableau.order)


def dpm2(process: Process, grid: Grid, *, r: float = 0.5) -> SamplerPlan:
    """DPM-Solver-2 as in k-diffusion and diff-sampler: the midpoint rule in rho, its stage at a fraction r in log rho.

        rho_m = rho_s^{1-r} rho_e^r,    <eps> = (1 - 1/(2r)) eps_s + eps_m/(2r).

    Two calls per step, one into a clean node. The rule of Lu et al. 2022 (arXiv 2206.00927), so equal to
    `dpm_solver(order=2, kind="singlestep")`, with the stage inside each step of the grid instead of at a node of it.

    Example:
        >>> import gendyn as gd
        >>> gd.plan("dpm2", gd.processes.EDM(), nfe=10).order
        2
    """
    if not 0 < r <= 1:
        raise ValueError(f"the stage must lie inside the step, 0 < r <= 1; got {r}.")

    def tableau(step: Step) -> Tableau:
        xp = namespace(step.h)
        fraction = xp.expm1(-r * step.h) / xp.expm1(-step.h)
        return Tableau(a=((fraction,),), b=(1 - 1 / (2 * r), 1 / (2 * r)), order=2)

    rows = [row for step in steps(process, grid) for row in _rows(process, step, tableau(step))]
    return assemble(process, rows, name="dpm2", order=2)


def _rows(process: Process, step: Step, tableau: Tableau) -> list[Row]:
    if step.clean or step.from_pure_noise:
        return staged(FORMS["data"], step, [], (1.0,))
    stages = [_stage(process, step, coefficients) for coefficients in tableau.a]
    return staged(FORMS["noise"], step, stages, tableau.b[::-1])


def _stage(process: Process, step: Step, coefficients: tuple[Any, ...]) -> tuple[Step, tuple[Any, ...]]:
    """The part of the step up to the stage, and the stage's weights, newest first and of sum one."""
    fraction = sum(coefficients)
    xp = namespace(step.h)
    whole = isinstance(fraction, int | float) and fraction == 1
    part = step if whole else step.until(process, -xp.log1p(fraction * xp.expm1(-step.h)))
    return part, tuple(a / fraction for a in reversed(coefficients))
