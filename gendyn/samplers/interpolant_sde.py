"""SDEs of an interpolant: the marginals of its ODE, with as much noise as one likes.

    forward (base to data):   dX = (velocity + eps score) dt + sqrt(2 eps) dW
    backward (data to base):  dX = (velocity - eps score) dt + sqrt(2 eps) dW, run from t = 1 down

Albergo, Boffi and Vanden-Eijnden 2023 (arXiv 2303.08797). The plan calls a drift of the same eps (`processes.fields`):
`run(plan, fields.drift(diffusion, direction), x, key=key)`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from gendyn.phi import gauss_legendre
from gendyn.processes.fields import Diffusion, OfGamma, drift_name
from gendyn.processes.interpolants import Interpolant
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import CLOCK_END
from gendyn.samplers.plan import Row, SamplerPlan, assemble

LARGEST = 1e4
"""eps/gamma beyond which a drift is taken for singular."""


def interpolant_em(process: Interpolant, grid: Grid, *, diffusion: Diffusion | None = None) -> SamplerPlan:
    """Euler-Maruyama: x_e = x + dt drift(x, t_s) + sqrt(2 int eps) z; one call per step, weak order 1.

    The direction is the grid's. Draws follow the clock of the integrated noise, so a seed gives one path on any grid.

    Args:
        diffusion: eps(t), by default gamma(t).

    Example:
        >>> import gendyn as gd
        >>> process = gd.processes.INTERPOLANTS["linear_bridge"]()
        >>> interpolant_em(process, gd.samplers.clock(process, 10)).nfe
        10
    """
    diffusion, noise, intervals = _prepared(process, grid, diffusion)
    rows = [
        Row(t=s, sm=(e - s,), sn=(z,), clock=interval)
        for s, e, z, interval in zip(grid.t[:-1], grid.t[1:], noise, intervals)
    ]
    return _assembled(process, grid, rows, "interpolant_em", 1, diffusion)


def interpolant_heun(process: Interpolant, grid: Grid, *, diffusion: Diffusion | None = None) -> SamplerPlan:
    """Stochastic Heun for additive noise, two calls per step, weak order 2.

        y = x + dt drift(x, t_s) + sqrt(2 int eps) z,
        x_e = x + dt (drift(x, t_s) + drift(y, t_e))/2 + sqrt(2 int eps) z

    The first stage belongs at t_s (the paper's published code evaluates both stages at t_e).
    """
    diffusion, noise, intervals = _prepared(process, grid, diffusion)
    rows = []
    for s, e, z, interval in zip(grid.t[:-1], grid.t[1:], noise, intervals):
        dt = e - s
        rows.append(Row(t=s, clock=(interval[0], interval[0])))
        rows.append(Row(t=e, em=(dt,), en=(z,), sm=(0.5 * dt, 0.5 * dt), sn=(z,), clock=interval))
    return _assembled(process, grid, rows, "interpolant_heun", 2, diffusion)


def _prepared(process: Interpolant, grid: Grid, diffusion: Diffusion | None) -> tuple[Diffusion, np.ndarray, Any]:
    """The diffusion, each step's standard deviation of the noise, and its interval on the Brownian clock."""
    diffusion = OfGamma() if diffusion is None else diffusion
    _refuse_singular(process, grid, diffusion)
    nodes, weights = gauss_legendre(16)
    spans = np.abs(np.diff(grid.t))
    inner = grid.t[:-1, None] + nodes * np.diff(grid.t)[:, None]
    variance = 2 * spans * (weights * np.asarray(diffusion.eps(process, inner))).sum(1)
    if (variance < 0).any() or not np.isfinite(variance).all():
        raise ValueError(f"eps(t) must be finite and not negative along the grid; {diffusion} is not.")
    run = np.concatenate([[0.0], np.cumsum(variance)])
    with np.errstate(divide="ignore"):
        clock = np.clip(0.5 * np.log(run), -CLOCK_END, CLOCK_END)
    return diffusion, np.sqrt(variance), list(itertools.pairwise(clock))


def _refuse_singular(process: Interpolant, grid: Grid, diffusion: Diffusion) -> None:
    """Times at which eps/gamma, the weight of eta in the drift, is not bounded."""
    ratio = np.asarray(diffusion.over_gamma(process, grid.t[:-1]))
    eps = np.asarray(diffusion.eps(process, grid.t))
    if not process.gamma(np.float64(0.5)) > 0 and (eps > 0).any():
        raise ValueError(
            f"{process} has no latent (gamma = 0), so its noise is no part of the path; use a flow sampler, or a path "
            "with a latent such as Bridge()."
        )
    bad = np.flatnonzero(~(np.abs(ratio) < LARGEST))
    if len(bad):
        raise ValueError(
            f"eps/gamma is not bounded at t = {grid.t[bad[0]]:g}, where gamma vanishes and {diffusion} does not: start "
            "the grid inside with t_start=, or use a diffusion that vanishes there, for example OfGamma()."
        )


def _assembled(
    process: Interpolant, grid: Grid, rows: list[Row], name: str, order: int, diffusion: Diffusion
) -> SamplerPlan:
    direction = "forward" if grid.t[-1] > grid.t[0] else "backward"
    field = drift_name(diffusion, direction)  # type: ignore[arg-type]
    return assemble(process, rows, name=name, order=order, field=field)
