"""Sampling a consistency function: jump to the data, noise again, jump again."""

from __future__ import annotations

import numpy as np

from gendyn.processes import Process
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import refuse_ends, steps
from gendyn.samplers.plan import Row, SamplerPlan, assemble


def consistency(process: Process, grid: Grid) -> SamplerPlan:
    """Multistep consistency sampling: Song et al. 2023 (arXiv 2303.01469), algorithm 1, on any Gaussian path.

        x <- alpha_e (f(x, t_s) + sqrt(s_e^2 - s_min^2) z),    s = sigma/alpha,    and f alone at the end.

    f(x, t) is a consistency function (`objectives.ConsistencyFunction`): its output is a sample at s_min, the level of
    the grid's last node, or of the process's own end where the grid ends clean. One call per step; a step of the grid
    is a jump, so a grid of one step samples with one call. With the exact f the marginals are exact for any grid; it is
    no solver and has no order (0).

    Raises:
        ValueError: noise that is not Gaussian; a grid that starts without signal.

    Example:
        >>> import gendyn as gd
        >>> plan = gd.plan("consistency", gd.processes.EDM(), nfe=2)
        >>> plan.nfe, plan.noise_rows
        (2, 1)
    """
    if not process.gaussian_noise:
        raise ValueError(f"consistency sampling adds Gaussian noise again, but the noise of {process} is not Gaussian.")
    refuse_ends(grid, "consistency sampling", remedy="a process whose interval starts with some signal", clean=False)
    s_min = (
        float(np.exp(-process.lam(np.float64(process.interval[1])))) if grid.clean else grid.sigma[-1] / grid.alpha[-1]
    )
    rows = []
    for step in steps(process, grid):
        level = step.sigma_e / step.alpha_e
        added = 0.0 if step.index + 1 == grid.steps else step.alpha_e * np.sqrt(max(level**2 - s_min**2, 0.0))
        rows.append(
            Row(t=step.t_s, sx=0.0, sm=(step.alpha_e,), sn=(added,) if grid.steps > 1 else (), clock=step.clock)
        )
    return assemble(process, rows, name=f"consistency_{grid.steps}", order=0, field="jump")
