"""What every solver reads off a grid, and refusals shared by solvers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from gendyn.processes import Process
from gendyn.samplers.grids import Grid
from gendyn.tree import concrete, namespace

CLOCK_END = 20.0  # |lam| where the Brownian clock stops: e^{-40} of any variance lies beyond


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a grid, from node s (noisier) to node e (cleaner)."""

    index: int
    t_s: Any
    t_e: Any
    alpha_s: Any
    alpha_e: Any
    sigma_s: Any
    sigma_e: Any
    h: Any
    """lam_e - lam_s > 0; infinite when the step starts from pure noise or ends clean."""
    clock: tuple[Any, Any]
    """The step's interval on the Brownian clock, in lam."""

    @property
    def clean(self) -> bool:
        """Whether the step ends without noise; data-form steps then return alpha_e D."""
        return bool(self.sigma_e == 0)

    @property
    def from_pure_noise(self) -> bool:
        return bool(self.alpha_s == 0)


def steps(process: Process, grid: Grid) -> Iterator[Step]:
    """The steps of a grid, noise to data.

    Raises:
        TypeError: traced nodes without the jax path. ValueError: a grid of another process.
    """
    if grid.process != process:
        raise ValueError(
            f"the grid was made for {grid.process}, the solver for {process}: build both from one process."
        )
    xp = namespace(grid.t)
    if xp is np:
        concrete("a sampler plan", grid.t)
    with np.errstate(divide="ignore"):
        lam = xp.log(grid.alpha) - xp.log(grid.sigma)
    clock = xp.clip(lam, -CLOCK_END, CLOCK_END)
    for i in range(grid.steps):
        j = i + 1
        yield Step(
            index=i,
            t_s=grid.t[i],
            t_e=grid.t[j],
            alpha_s=grid.alpha[i],
            alpha_e=grid.alpha[j],
            sigma_s=grid.sigma[i],
            sigma_e=grid.sigma[j],
            h=lam[j] - lam[i],
            clock=(clock[i], clock[j]),
        )


def require_nonnegative(name: str, value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{name} must be zero or positive; got {value}.")
