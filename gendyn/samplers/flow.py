"""Solvers of dx/dt = velocity(x, t) on the clock itself, for fields that have no (alpha, sigma): interpolants.

Their plans call a velocity where others call a denoiser (`PlanInfo.field` says so, and `run` checks it). On Gaussian
paths they run too, on `predictions.velocity(D, process)`, but know nothing of the path's linear part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gendyn.processes.interpolants import Interpolant
from gendyn.samplers.grids import Grid
from gendyn.samplers.plan import Row, SamplerPlan, assemble
from gendyn.samplers.runge_kutta import TABLEAUX, Tableau
from gendyn.tree import concrete

FLOW_TABLEAUX = {
    "euler": Tableau(a=(), b=(1,), order=1),
    "midpoint": Tableau(a=((1 / 2,),), b=(0, 1), order=2),
    "heun": TABLEAUX["heun2"],
    "kutta3": TABLEAUX["kutta3"],
    "rk4": TABLEAUX["rk4"],
}
"""Explicit Runge-Kutta rules by name."""


def clock(process: Any, n: int, *, t_start: float | None = None, t_end: float | None = None, ends: float = 1.0) -> Grid:
    """n steps on a process's clock from `t_start` to `t_end`, by default its whole interval, in either direction.

    Args:
        ends: 1 is uniform; above, nodes crowd at both ends: t = u^e/(u^e + (1 - u)^e).

    Example:
        >>> import gendyn as gd
        >>> clock(gd.processes.Interpolant(), 4).t.tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    start, end = (given if t is None else t for t, given in zip((t_start, t_end), process.interval))
    concrete("a time grid", start, end, ends)
    if not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"a grid needs a whole number of steps n >= 1; got {n!r}.")
    low, high = sorted((process.t_base, process.t_data) if isinstance(process, Interpolant) else process.interval)
    if not (low <= start <= high and low <= end <= high and start != end and ends > 0):
        raise ValueError(f"a grid runs between two different times in [{low:g}, {high:g}]; got {start} to {end}.")
    u = np.linspace(0, 1, n + 1)
    share = u**ends / (u**ends + (1 - u) ** ends)
    return times(process, start + share * (end - start))


def times(process: Any, nodes: Sequence[float] | np.ndarray) -> Grid:
    """The nodes you name, strictly monotone in either direction.

    Of an interpolant, alpha is the coefficient of the data and sigma that of all the rest.
    """
    t = np.asarray(nodes, np.float64)
    steps = np.diff(t)
    if t.ndim != 1 or len(t) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"nodes must run strictly one way and be two or more; got {t.tolist()}.")
    if isinstance(process, Interpolant):
        alpha, sigma = process.b(t), np.hypot(process.a(t), process.gamma(t))
    else:
        alpha, sigma = process.alpha(t), process.sigma(t)
    return Grid(t=t, alpha=np.asarray(alpha), sigma=np.asarray(sigma), process=process, name="clock")


def flow_rk(process: Any, grid: Grid, *, method: str = "heun") -> SamplerPlan:
    """Explicit Runge-Kutta on the velocity: "euler", "midpoint", "heun", "kutta3", "rk4", one call per stage.

        y_i = x + dt sum_j a_ij k_j,   k_i = velocity(y_i, t + c_i dt),   x <- x + dt sum_i b_i k_i

    Exact for straight trajectories. Runs either way of the clock.

    Example:
        >>> import gendyn as gd
        >>> process = gd.processes.Interpolant()
        >>> flow_rk(process, clock(process, 5), method="rk4").nfe
        20
    """
    if method not in FLOW_TABLEAUX:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(FLOW_TABLEAUX)}.")
    tableau = FLOW_TABLEAUX[method]
    rows = [row for s, e in zip(grid.t[:-1], grid.t[1:]) for row in _step(tableau, s, e - s)]
    return assemble(process, rows, name=f"flow_{method}", order=tableau.order, field="velocity")


def _step(tableau: Tableau, t: float, dt: float) -> list[Row]:
    stages = [(), *tableau.a]
    rows = [Row(t=t + sum(a) * dt, em=tuple(dt * c for c in reversed(a))) for a in stages]
    last = Row(t=rows[-1].t, em=rows[-1].em, sm=tuple(dt * b for b in reversed(tableau.b)))
    return [*rows[:-1], last]


def flow_ab(process: Any, grid: Grid, *, order: int = 2) -> SamplerPlan:
    """Adams-Bashforth on the velocity with variable steps, one call per step: orders 1 to 4, started at lower order.

    Weights are the integrals over the step of the Lagrange polynomials through the last `order` nodes.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"Adams-Bashforth exists here for orders 1 to 4; got {order}.")
    t = grid.t
    rows = []
    for i in range(grid.steps):
        nodes = t[max(i - order + 1, 0) : i + 1][::-1]
        rows.append(Row(t=t[i], sm=tuple(_lagrange_integrals(nodes, t[i], t[i + 1]))))
    return assemble(process, rows, name=f"flow_ab{order}", order=order, field="velocity")


def _lagrange_integrals(nodes: np.ndarray, start: float, end: float) -> np.ndarray:
    """Integral over [start, end] of each Lagrange polynomial on the nodes, in the scaled variable of the step."""
    s = (nodes - start) / (end - start)
    moments = 1.0 / np.arange(1, len(s) + 1)
    return (end - start) * np.linalg.solve(np.vander(s, increasing=True).T, moments)
