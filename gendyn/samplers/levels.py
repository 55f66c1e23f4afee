"""What every solver reads off a grid, and refusals shared by solvers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from gendyn.processes import Process
from gendyn.samplers.grids import Grid, is_zero
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
        return is_zero(self.sigma_e)

    @property
    def from_pure_noise(self) -> bool:
        return is_zero(self.alpha_s)

    @property
    def lam_s(self) -> Any:
        """log(alpha/sigma) where the step starts."""
        xp = namespace(self.alpha_s)
        return xp.log(self.alpha_s) - xp.log(self.sigma_s)

    def through(self, last: Step) -> Step:
        """The one step from this step's start to the end of a later one."""
        end = {name: getattr(last, name) for name in ("t_e", "alpha_e", "sigma_e")}
        h = self.h if last is self else last.lam_s + last.h - self.lam_s
        return dataclasses.replace(self, h=h, clock=(self.clock[0], last.clock[1]), **end)

    def until(self, process: Process, h: Any) -> Step:
        """The first part of the step, of length h in lam."""
        t = process.t_of_lam(self.lam_s + h)
        end = {"t_e": t, "alpha_e": process.alpha(t), "sigma_e": process.sigma(t)}
        return dataclasses.replace(self, h=h, clock=(self.clock[0], self.clock[0] + h), **end)


def steps(process: Process, grid: Grid) -> Iterator[Step]:
    """The steps of a grid, noise to data.

    Raises:
        TypeError: traced nodes without the jax path. ValueError: a grid of another process.
    """
    if grid.process != process:
        raise ValueError(
            f"the grid was made for {grid.process}, the solver for {process}: build both from one process."
        )
    if namespace(*grid.t) is np:
        concrete("a sampler plan", grid.t)
    with np.errstate(divide="ignore"):
        lam = [namespace(a).log(a) - namespace(s).log(s) for a, s in zip(grid.alpha, grid.sigma, strict=True)]
    clock = [namespace(level).clip(level, -CLOCK_END, CLOCK_END) for level in lam]
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


def refuse_ends(grid: Grid, solver: str, *, remedy: str, clean: bool = True) -> None:
    """Refuse, in words, the ends of a grid where eps carries no information about the step: alpha = 0, and sigma = 0.

    Args:
        remedy: the solver to use instead.
        clean: False for rules that can integrate eps up to a clean last node.
    """
    if clean and grid.clean:
        raise ValueError(
            f"{solver} needs a grid that ends above zero, but this one ends clean (sigma = 0); pass final_zero=False "
            f"to the grid (with t_end= inside the clock), or use {remedy}."
        )
    if grid.from_pure_noise:
        raise ValueError(
            f"{solver} needs a grid that starts with some signal, but this one starts at pure noise (alpha = 0); pass "
            f"t_start= strictly inside the clock, or use {remedy}."
        )


def require_nonnegative(name: str, value: float) -> None:
    concrete(name, value)
    if not value >= 0:
        raise ValueError(f"{name} must be zero or positive; got {value}.")
