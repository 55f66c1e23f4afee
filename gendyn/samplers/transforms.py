"""Plans from plans: one more call at the end, or one fewer at the start."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from gendyn.samplers.grids import Grid
from gendyn.samplers.plan import LEAVES, Row, SamplerPlan, assemble


def final_denoise(plan: SamplerPlan, grid: Grid) -> SamplerPlan:
    """The plan of this grid followed by x <- D(x, t_end): one more call removes the noise sigma(t_end) left at the end.

    What dpm-solver calls denoise_to_zero. A step into a clean last node returns the D of the node before instead.

    Raises:
        ValueError: a grid that ends clean already.

    Example:
        >>> import gendyn as gd
        >>> process = gd.processes.VPLinear()
        >>> grid = gd.samplers.grids.uniform_lam(process, n=9)
        >>> final_denoise(gd.samplers.dpm_solver(process, grid), grid).nfe
        10
    """
    if grid.clean:
        raise ValueError(f"{plan.name} ends clean already: there is nothing left to denoise at the end.")
    last = assemble(
        plan.process,
        [Row(t=grid.t[-1], sx=0.0, sm=(1.0,))],
        name=f"{plan.name}+denoise",
        order=plan.order,
    ).pad(window=plan.window, draws=plan.draws)
    shape = plan.data_shape
    leaves = {name: _append(getattr(plan, name), getattr(last, name), shape) for name in LEAVES}
    return dataclasses.replace(plan, info=last.info, **leaves)


def _append(value: np.ndarray, row: np.ndarray, data_shape: tuple[int, ...]) -> np.ndarray:
    if value.ndim > row.ndim:
        row = np.broadcast_to(row.reshape(row.shape + (1,) * len(data_shape)), (*row.shape, *data_shape))
    return np.concatenate([value, row])


def analytical_first_step(plan: SamplerPlan) -> SamplerPlan:
    """The plan with its first call answered by a formula: eps = x/sqrt(alpha^2 + sigma^2), one call saved.

    Dockhorn et al. 2022, "GENIE" (arXiv 2210.05475), used throughout by Zhou et al. 2024 (arXiv 2312.00094): at high
    noise the state is all noise. In denoised form D = alpha x/(n (n + sigma)), n = sqrt(alpha^2 + sigma^2).

    The output m_0 that the formula gives is linear in the starting state, so it never enters the history: while later
    rows still use it, it is carried along as a combination u x + v . history + w of what the rows do have.

    Raises:
        ValueError: a stochastic plan, or a first row that calls nothing.

    Example:
        >>> import gendyn as gd
        >>> analytical_first_step(gd.plan("ipndm", gd.processes.EDM(), nfe=6)).nfe
        5
    """
    if plan.draws or not plan.call[0]:
        raise ValueError("the analytical first step needs a deterministic plan whose first row calls the network.")
    new = {name: np.array(getattr(plan, name), np.float64 if name != "call" else bool) for name in LEAVES}
    carried = _first_output(plan)
    age = 0  # position of m_0 in the history that the rows expect
    new["call"][0] = False
    for i in range(plan.rows):
        if i > 0:
            _substitute(new, "e", i, age, carried)
            if plan.call[i]:
                carried = carried.aged()
                age += 1
        _substitute(new, "s", i, age, carried)
        if age >= plan.window or i + 1 == plan.rows:
            break
        carried = carried.through(new["sx"][i], new["sm"][i], new["sc"][i])
    name = f"{plan.name}+afs"
    return dataclasses.replace(plan, info=dataclasses.replace(plan.info, name=name), **new)  # type: ignore[type-var]


@dataclasses.dataclass(frozen=True)
class _Carried:
    """m_0 = u x + v . history + w."""

    u: Any
    v: np.ndarray
    w: Any

    def aged(self) -> _Carried:
        """After another output has entered the history."""
        return _Carried(self.u, np.concatenate([np.zeros_like(self.v[:1]), self.v[:-1]]), self.w)

    def through(self, sx: Any, sm: np.ndarray, sc: Any) -> _Carried:
        """After x has become sx x + sm . history + sc."""
        u = self.u / sx
        return _Carried(u, self.v - u * sm, self.w - u * sc)


def _first_output(plan: SamplerPlan) -> _Carried:
    process, t = plan.process, np.float64(plan.t[0])
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    n = np.hypot(alpha, sigma)
    factor = plan.oy[0] + plan.om[0] * alpha / (n * (n + sigma))
    return _Carried(factor * plan.ex[0], np.zeros_like(plan.sm[0]), factor * plan.ec[0])


def _substitute(new: dict[str, np.ndarray], side: str, i: int, age: int, carried: _Carried) -> None:
    """Replace the history entry at `age` in one side of row i by what m_0 is."""
    if age >= new[side + "m"].shape[1]:
        return
    weight = new[side + "m"][i, age].copy()
    new[side + "m"][i, age] = 0.0
    new[side + "x"][i] += weight * carried.u
    new[side + "m"][i] += weight * carried.v
    new[side + "c"][i] += weight * carried.w
