"""A deterministic plan in canonical form, whatever its solver.

Shaul et al. 2024, "Bespoke Non-Stationary Solvers" (arXiv 2403.01329): with N calls,

    y_i = A_i x_T + sum_{j < i} B_ij D_j + C_i,        D_i = D(y_i, t_i),        i = 0..N,        y_N the sample.

A plan of order 1 has A_i = sigma_i/sigma_T and alpha_i = A_i alpha_T + sum_j B_ij.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gendyn.samplers.plan import PlanInfo, SamplerPlan
from gendyn.tree import namespace, pytree


@pytree
class Triangle:
    """A deterministic plan in canonical form.

    Attributes:
        t: what the network is told at each call, [N].
        cells: row i holds A_i, B_i0 .. B_i(N-1), C_i: [N + 1, N + 2], or [N + 1, N + 2, *data] per element.
        clock: the intervals between calls on the Brownian clock, [N, 2].
    """

    t: Any
    cells: Any
    clock: Any

    def plan(self, info: PlanInfo | None = None) -> SamplerPlan:
        """As a table of N rows in which x moves from y_i to y_{i+1} and all N outputs are remembered."""
        xp = namespace(self.cells)
        n, shape = len(self.t), self.cells.shape[2:]
        before = xp.concatenate([_units(xp, n + 2, shape)[:1], self.cells[1:-1]])
        sx = self.cells[1:, 0] / before[:, 0]
        rest = self.cells[1:] - sx[:, None] * before
        row, lag = np.indices((n, n))
        newest_first = rest[row, 1 + np.maximum(row - lag, 0)]
        first = (np.arange(n) == 0).reshape(n, *(1,) * len(shape))
        zero = xp.zeros_like(sx)
        return SamplerPlan(
            t=self.t,
            call=np.ones(n, bool),
            ex=xp.where(first, self.cells[0, 0], 1.0),
            em=xp.zeros_like(newest_first),
            en=np.zeros((n, 0, *shape)),
            ec=xp.where(first, self.cells[0, -1], 0.0),
            oy=zero,
            om=zero + 1.0,
            sx=sx,
            sm=xp.where((lag <= row).reshape(n, n, *(1,) * len(shape)), newest_first, 0.0),
            sn=np.zeros((n, 0, *shape)),
            sc=rest[:, -1],
            clock=self.clock,
            info=info,
        )


def triangle(plan: SamplerPlan) -> Triangle:
    """The canonical form: the rows of a deterministic plan, run on coefficient vectors in the place of states.

    Example:
        >>> import gendyn as gd
        >>> form = triangle(gd.plan("ddim", gd.processes.EDM(), nfe=2))
        >>> form.cells[-1].tolist()  # the grid ends clean, so the sample is the last output
        [0.0, 0.0, 1.0, 0.0]
    """
    xp = namespace(plan.t, plan.sx, plan.sm)
    called = np.flatnonzero(plan.call)
    units = _units(xp, len(called) + 2, plan.data_shape)
    x, rows = units[0], []
    history = [xp.zeros_like(x)] * plan.window
    for i in range(plan.rows):
        if plan.call[i]:
            rows.append(plan.ex[i] * x + _dot(plan.em[i], history) + plan.ec[i] * units[-1])
            history = [plan.oy[i] * rows[-1] + plan.om[i] * units[len(rows)], *history[:-1]]
        x = plan.sx[i] * x + _dot(plan.sm[i], history) + plan.sc[i] * units[-1]
    starts = plan.clock[called, 0]
    clock = xp.stack([starts, xp.concatenate([starts[1:], plan.clock[-1:, 1]])], axis=1)
    return Triangle(t=plan.t[called], cells=xp.stack([*rows, x]), clock=clock)


def _units(xp: Any, size: int, shape: tuple[int, ...]) -> Any:
    """The unit vectors x_T, D_0, ..., 1, each for every element."""
    return xp.broadcast_to(xp.eye(size).reshape(size, size, *(1,) * len(shape)), (size, size, *shape))


def _dot(coefficients: Any, window: list[Any]) -> Any:
    return sum((c * w for c, w in zip(coefficients, window, strict=True)), start=0.0)
