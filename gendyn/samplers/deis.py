"""DEIS: eps as a polynomial in a chosen variable through past nodes, integrated exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from gendyn.phi import gauss_legendre, interpolant_average
from gendyn.processes import Process
from gendyn.samplers.forms import FORMS, Weights, multistep
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import Step, refuse_ends, steps
from gendyn.samplers.orders import LowerFinal, step_orders, true_order
from gendyn.samplers.plan import SamplerPlan, assemble
from gendyn.tree import namespace

Kind: TypeAlias = Literal["tAB", "rhoAB", "logrhoAB"]

QUADRATURE = 48

VARIABLES: dict[str, Callable[[Process, Any], Any]] = {
    "tAB": lambda process, lam: process.t_of_lam(lam),
    "rhoAB": lambda process, lam: namespace(lam).exp(-lam),
    "logrhoAB": lambda process, lam: -lam,
}
"""The variable in which eps is taken to be a polynomial, as a function of lam."""


def interpolant(process: Process, variable: Callable[[Process, Any], Any], recent: Sequence[Step]) -> Weights:
    """<eps> = integral of the interpolant over d rho, rho = sigma/alpha, by Gauss-Legendre quadrature.

    The quadrature runs in u = asinh(rho), in which both t(rho) (logarithmic for large rho, smooth at zero) and powers
    of rho are smooth, so 48 points give machine precision on steps from rho = 150 down to a clean node.
    """
    step = recent[0]
    xp = namespace(step.h)
    s, mass = gauss_legendre(QUADRATURE)
    u_s, u_e = xp.arcsinh(step.sigma_s / step.alpha_s), xp.arcsinh(step.sigma_e / step.alpha_e)
    u = u_s + s * (u_e - u_s)
    nodes = [variable(process, past.lam_s) for past in recent]
    return interpolant_average(nodes, variable(process, -xp.log(xp.sinh(u))), mass * xp.cosh(u))


def deis(
    process: Process,
    grid: Grid,
    *,
    order: int = 3,
    kind: Kind = "tAB",
    orders: Sequence[int] | None = None,
    lower_order_final: LowerFinal = False,
) -> SamplerPlan:
    """DEIS multistep: Zhang and Chen 2023 (arXiv 2204.13902), section 3, coefficients by exact quadrature.

    One call per step. A polynomial of degree `order` through order + 1 outputs, so of order one more; degree 0 is
    DDIM. Kind "tAB" is polynomial in the process's time; on a clock with kinks (VPDiscrete's table) its
    error has a floor at the table's spacing. "rhoAB" is in sigma/alpha: variable-step Adams-Bashforth, which is also
    LMS and the correct variable-step iPNDM, and equals tAB on EDM's clock. "logrhoAB" is in lam: the form of
    diffusers, equal to Taylor-type DPM-Solver multistep in noise form.

    Args:
        order: degree of the polynomial.
        kind: the variable, see above.
        orders: the degree at each step, in place of the usual start-up 0, 1, ...
        lower_order_final: whether the last steps fall back; the published code does not.

    Raises:
        ValueError: a start at pure noise; a clean end, except for rhoAB, which integrates up to it, and for tAB on a
            clock that reaches it.

    Example:
        >>> import gendyn as gd
        >>> gd.plan("deis_tab3", gd.processes.VPLinear(), nfe=8).order
        4
    """
    if kind not in VARIABLES:
        raise ValueError(f"unknown kind {kind!r}; choose one of {', '.join(VARIABLES)}.")
    unreachable = kind == "logrhoAB" or (kind == "tAB" and grid.clean and bool(np.isnan(grid.t[-1])))
    refuse_ends(grid, f"DEIS {kind}", remedy='kind="rhoAB" or dpmpp', clean=unreachable)
    used = step_orders(
        grid,
        order + 1,
        None if orders is None else [degree + 1 for degree in orders],
        lower_order_final=lower_order_final,
        clean_at_full_order=True,
    )
    average = partial(interpolant, process, VARIABLES[kind])
    rows = multistep(FORMS["noise"], list(steps(process, grid)), used, average)
    return assemble(process, rows, name=f"deis_{kind}{order}", order=true_order(grid, max(used), used))


def lms(process: Process, grid: Grid, *, order: int = 4) -> SamplerPlan:
    """Linear multistep of `order` outputs, as in k-diffusion: rhoAB of degree order - 1, up to a clean last node.

    Example:
        >>> import gendyn as gd
        >>> gd.plan("lms", gd.processes.EDM(), nfe=8).order
        4
    """
    plan = deis(process, grid, order=order - 1, kind="rhoAB")
    assert plan.info is not None
    return dataclasses.replace(plan, info=dataclasses.replace(plan.info, name=f"lms_{order}"))
