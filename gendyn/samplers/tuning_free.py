"""What tuning may move: the nodes of a grid, the times that the network is told, and every coefficient.

A student is base(grid) + corrections: the triangle (see `triangle`) of a solver on its grid moves with the grid, and
corrections, which start at zero, are added to it. The times t_i, which the network is told, are numbers of their own,
apart from the nodes that the coefficients come from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from gendyn.processes import Process
from gendyn.samplers.adaptive import default_ends
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import CLOCK_END
from gendyn.samplers.plan import SamplerPlan
from gendyn.samplers.triangle import Triangle, triangle
from gendyn.tree import namespace

GROWTH = 5.0
"""A step grows or shrinks by at most e^5: nodes stay apart, whatever an optimizer tries."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovingGrid:
    """A solver on a grid whose nodes may move: where `tune` starts if the grid is to be tuned too.

    The ends stay; the node before a clean one, and the one after pure noise, move like the others.

    Attributes:
        solver: (process, grid) -> plan in the grid's array module, for example `ddim` or `partial(dpmpp, order=3)`.
        grid: where it starts.
    """

    solver: Callable[[Process, Grid], SamplerPlan]
    grid: Grid

    def plan(self, grid: Grid | None = None) -> SamplerPlan:
        """The plan on this grid; before tuning by default."""
        return self.solver(self.grid.process, self.grid if grid is None else grid)


class Part(Protocol):
    """A group of numbers that tuning moves; at zero it changes nothing."""

    def shape(self, base: Base) -> tuple[int, ...]:
        """Shape of the group."""
        ...

    def apply(self, values: Any, form: Triangle, base: Base) -> Triangle:
        """The triangle moved by these numbers, on the host or traced."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nodes:
    """The steps of a `MovingGrid`, as logarithms of the factors by which they grow in lam.

    Between two ends that stay the steps share the distance. Where the grid ends clean or starts from pure noise, they
    are free, up to the cleanest time of the process's interval.
    """

    def shape(self, base: Base) -> tuple[int, ...]:
        grid = base.grid
        return (int(np.isfinite(grid.lam).sum()) - 1 + (grid.from_pure_noise and grid.clean),)

    def apply(self, values: Any, form: Triangle, base: Base) -> Triangle:
        """The solver's triangle on the moved grid; comes before other parts, which correct it."""
        return triangle(base.solve(self.moved(values, base.grid)))

    def moved(self, values: Any, grid: Grid) -> Grid:
        """The grid with its nodes moved; nodes that stay remain numbers, so that solvers see what the ends are."""
        inner = np.flatnonzero(np.isfinite(grid.lam))
        t, alpha, sigma = list(grid.t), list(grid.alpha), list(grid.sigma)
        for i, lam in zip(inner, self._levels(values, grid, grid.lam[inner])):
            if 0 < i < grid.steps:
                t[i] = grid.process.t_of_lam(lam)
                alpha[i], sigma[i] = grid.process.alpha(t[i]), grid.process.sigma(t[i])
        return dataclasses.replace(grid, t=tuple(t), alpha=tuple(alpha), sigma=tuple(sigma))

    def _levels(self, values: Any, grid: Grid, lam: np.ndarray) -> Any:
        """lam of the finite nodes, in order whatever the numbers are."""
        xp = namespace(values)
        sizes = np.diff(lam) * xp.exp(GROWTH * xp.tanh(values[: len(lam) - 1] / GROWTH))
        if grid.from_pure_noise and not grid.clean:
            return lam[-1] - xp.concatenate([xp.cumsum(sizes[::-1])[::-1], np.zeros(1)])
        first = lam[0] + (values[-1] if grid.from_pure_noise else 0.0)
        cleanest = max(lam[-1], grid.process.lam(default_ends(grid.process)[1])) if grid.clean else lam[-1]
        share = (cleanest - first) / sizes.sum()
        sizes = sizes * (xp.minimum(share, 1.0) if grid.clean else share)
        return first + xp.concatenate([np.zeros(1), xp.cumsum(sizes)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """Shifts, in lam, of the times that the network is told, away from the nodes of the coefficients.

    Tong et al. 2024, "Learning to Discretize Denoising Diffusion ODEs" (arXiv 2405.15506). A shift stays within `reach`
    of the distance to the nearest other call, and inside the process's interval. The first call is left alone: its time
    says where the plan starts.
    """

    reach: float = 0.5

    def shape(self, base: Base) -> tuple[int, ...]:
        return (base.nfe - 1,)

    def apply(self, values: Any, form: Triangle, base: Base) -> Triangle:
        xp, process, room = namespace(form.t, values), base.plan.process, self.reach * base.gaps[1:]
        shifted = xp.clip(process.lam(form.t[1:]) + room * xp.tanh(values / room), *base.ends)
        return dataclasses.replace(form, t=xp.concatenate([form.t[:1], process.t_of_lam(shifted)]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """Corrections to every coefficient.

    Attributes:
        consistent: keep the A_i and the sums of B_ij over j, which make a plan of order 1 exact for data at one point.
            Released, a plan fits better with few calls and many pairs.
        per_element: a number per element of the data, the C_i (if the sums are released) included. Needs about ten
            pairs per number, and a first-order optimiser.
    """

    consistent: bool = True
    per_element: bool = False

    def shape(self, base: Base) -> tuple[int, ...]:
        return (int(self._places(base.nfe).sum()), *(base.example if self.per_element else ()))

    def apply(self, values: Any, form: Triangle, base: Base) -> Triangle:
        """B and C move in units of the signal at the node they lead to, A by a factor; kept sums: by differences."""
        xp = namespace(form.cells, values)
        shape = np.broadcast_shapes(form.cells.shape[2:], values.shape[1:])
        cells, moved = _per_element(form.cells, shape), _per_element(_placed(values, self._places(base.nfe)), shape)
        alpha = base.alpha.reshape(-1, *(1,) * (moved.ndim - 1))
        if self.consistent:
            return dataclasses.replace(form, cells=xp.concatenate(
                [cells[:, :1], cells[:, 1:-1] + alpha * xp.diff(moved, axis=1), cells[:, -1:]], axis=1
            ))  # fmt: skip
        grown = [cells[:, :1] * xp.exp(moved[:, :1]), cells[:, 1:] + alpha * moved[:, 1:]]
        return dataclasses.replace(form, cells=xp.concatenate(grown, axis=1))

    def _places(self, n: int) -> np.ndarray:
        """Where the numbers go: in [N + 1, N + 2] or, if differences of them along a row, in [N + 1, N + 1]."""
        row, column = np.indices((n + 1, n + 2))
        if self.consistent:
            return ((column >= 1) & (column < row))[:, :-1]
        return (row >= 1) & ((column <= row) | (self.per_element & (column == n + 1)))


def _placed(values: Any, places: np.ndarray) -> Any:
    """`values`, [count, ...], at `places`, and zero elsewhere."""
    xp = namespace(values)
    index = np.where(places, np.cumsum(places).reshape(places.shape) - 1, -1)
    return xp.concatenate([values, xp.zeros((1, *values.shape[1:]), values.dtype)])[index]


def _per_element(cells: Any, shape: tuple[int, ...]) -> Any:
    """[rows, columns] or [rows, columns, *data] -> [rows, columns, *shape]."""
    outer, own = cells.shape[:2], cells.shape[2:] or (1,) * len(shape)
    return namespace(cells).broadcast_to(cells.reshape(*outer, *own), (*outer, *shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """Where tuning starts, and what the parts need to know of it.

    Attributes:
        start: a plan, or a solver on its moving grid.
        example: shape of one example.
    """

    start: SamplerPlan | MovingGrid
    example: tuple[int, ...]

    @cached_property
    def plan(self) -> SamplerPlan:
        return self.start.plan() if isinstance(self.start, MovingGrid) else self.start

    @property
    def grid(self) -> Grid:
        return self._moving.grid

    def solve(self, grid: Grid) -> SamplerPlan:
        """The solver's plan on another grid."""
        return self._moving.plan(grid)

    @property
    def _moving(self) -> MovingGrid:
        if isinstance(self.start, MovingGrid):
            return self.start
        raise ValueError(
            "an ordinary plan does not say how its coefficients follow from its grid; to tune Nodes() too, start from "
            "gd.samplers.MovingGrid(solver=..., grid=...)."
        )

    @property
    def nfe(self) -> int:
        return self.plan.nfe

    @cached_property
    def lam(self) -> np.ndarray:
        """At the calls, [N]."""
        with np.errstate(divide="ignore"):
            return self.plan.process.lam(np.asarray(self.plan.t)[np.asarray(self.plan.call)])

    @cached_property
    def end(self) -> float:
        """lam at the end of the plan, infinite if it ends clean."""
        lam = float(self.plan.clock[-1, 1])
        return lam if lam < CLOCK_END else np.inf

    @cached_property
    def alpha(self) -> np.ndarray:
        """At the calls and at the end, [N + 1]."""
        lam = np.append(self.lam, self.end)
        finite = np.isfinite(lam)
        process = self.plan.process
        alpha = process.alpha(process.t_of_lam(np.where(finite, lam, 0.0)))
        return np.where(finite, alpha, lam > 0)

    @cached_property
    def gaps(self) -> np.ndarray:
        """Distance in lam from each call to the nearest other time of the plan, [N]; 1 where there is none."""
        with np.errstate(invalid="ignore"):
            apart = np.abs(self.lam[:, None] - np.append(self.lam, self.end))
        nearest = np.where(np.isfinite(apart) & (apart > 0), apart, np.inf).min(1)
        return np.where(np.isfinite(nearest), nearest, 1.0)

    @cached_property
    def ends(self) -> tuple[float, float]:
        """Range of lam in which the network may be called: the process's interval, or as far as the plan goes."""
        with np.errstate(divide="ignore"):
            low, high = self.plan.process.lam(np.array(default_ends(self.plan.process)))
        finite = self.lam[np.isfinite(self.lam)]
        return min(low, *finite), max(high, *finite)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """The plans that tuning chooses from, as a function of a vector of numbers; zero gives the base.

    Attributes:
        free: what moves; `Nodes` first, if at all.
    """

    base: Base
    free: tuple[Part, ...]

    @property
    def size(self) -> int:
        return sum(math.prod(part.shape(self.base)) for part in self.free)

    def restarted(self, start: SamplerPlan | MovingGrid) -> Family:
        """The same parts, moving from another start; a plan has no grid to move: what nodes do, its rows can do."""
        fixed = not isinstance(start, MovingGrid)
        parts = tuple(part for part in self.free if not (fixed and isinstance(part, Nodes)))
        return Family(base=dataclasses.replace(self.base, start=start), free=parts)

    def plan(self, values: Any) -> SamplerPlan:
        """The plan of these numbers, [size]: on the host for numpy's, traced for traced ones."""
        form, used = triangle(self.base.plan), 0
        for part in self.free:
            shape = part.shape(self.base)
            own, used = values[used : used + math.prod(shape)], used + math.prod(shape)
            form = part.apply(own.reshape(shape), form, self.base)
        return form.plan()
