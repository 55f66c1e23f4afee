"""Named recipes: a solver, the grid it is usually run on, and how many steps a number of network calls buys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from gendyn.processes import Interpolant, Process
from gendyn.samplers.consistency import consistency
from gendyn.samplers.ddim import ancestral, ddim
from gendyn.samplers.deis import deis, lms
from gendyn.samplers.dpm_solver import dpm_solver, dpmpp
from gendyn.samplers.dpm_solver_v3 import dpm_solver_v3
from gendyn.samplers.euler import euler
from gendyn.samplers.euler_maruyama import euler_maruyama
from gendyn.samplers.exponential_sde import seeds
from gendyn.samplers.flow import clock, flow_ab, flow_rk
from gendyn.samplers.grids import GRIDS, Grid, subdivide
from gendyn.samplers.heun import heun
from gendyn.samplers.interpolant_sde import interpolant_em, interpolant_heun
from gendyn.samplers.ipndm import ipndm
from gendyn.samplers.langevin import langevin
from gendyn.samplers.orders import fast_orders
from gendyn.samplers.plan import SamplerPlan
from gendyn.samplers.runge_kutta import deis_rk, dpm2
from gendyn.samplers.sde_dpm import sde_dpmpp
from gendyn.samplers.splitting import dpm2_ancestral, dpmpp_2s_ancestral
from gendyn.samplers.unipc import unipc


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How `gendyn.plan` builds a named sampler.

    Attributes:
        build: (process, grid, **options) -> plan.
        calls: calls per step; on a grid that ends clean the last step makes `last` of them.
        grid: name of the usual grid.
        final_zero: whether that grid ends clean; None leaves the builder's habit.
    """

    build: Callable[..., SamplerPlan]
    calls: int = 1
    last: int = 1
    grid: str = "karras"
    final_zero: bool | None = None

    def plans(
        self, process: Process, nfe: int, grid: Callable[[int], Grid], options: dict[str, Any]
    ) -> list[SamplerPlan]:
        """Candidates whose number of calls could be `nfe`: built, so that counts are not assumed."""
        guesses = sorted({nfe // self.calls, (nfe + self.calls - self.last) // self.calls, nfe // self.calls + 1})
        return [self.build(process, grid(n), **options) for n in guesses if n >= 1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastRecipe(Recipe):
    """A singlestep solver, one call per interval of its grid.

    On the log-SNR grid, DPM-Solver-fast as published: outer steps equal in lam, step i cut into orders[i] pieces. On
    other grids the solver groups the intervals itself.
    """

    order: int

    def plans(
        self, process: Process, nfe: int, grid: Callable[[int], Grid], options: dict[str, Any]
    ) -> list[SamplerPlan]:
        orders = fast_orders(nfe, self.order)
        outer = grid(len(orders))
        if outer.name != "uniform_lam" or outer.clean or "orders" in options:
            return [self.build(process, grid(nfe), **options)]
        return [self.build(process, subdivide(outer, orders), orders=orders, **options)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FittedRecipe(Recipe):
    """A solver fitted to one model, one call per step: it needs that model's statistics."""

    def plans(
        self, process: Process, nfe: int, grid: Callable[[int], Grid], options: dict[str, Any]
    ) -> list[SamplerPlan]:
        if options.get("statistics") is None:
            raise ValueError(
                "this sampler needs statistics= of the model: gd.samplers.statistics.estimate(process, D, data, key), "
                "or `gendyn statistics RUN` for a run."
            )
        return [self.build(process, grid(nfe), **options)]


def _inside(build: Callable[..., SamplerPlan], calls: int = 1) -> Recipe:
    """A rule for grids that end above zero."""
    return Recipe(build=build, calls=calls, last=calls, grid="uniform_lam", final_zero=False)


def _two_calls(build: Callable[..., SamplerPlan]) -> Recipe:
    """A rule of two calls per step, on a grid that ends above zero so that every even number of calls exists."""
    return Recipe(build=build, calls=2, last=2, final_zero=False)


SAMPLERS: dict[str, Recipe] = {
    "ddim": Recipe(build=ddim),
    "euler": Recipe(build=euler),
    "heun": Recipe(build=heun, calls=2),
    "ancestral": Recipe(build=ancestral),
    "dpmpp_2m": Recipe(build=dpmpp),
    "dpmpp_3m": Recipe(build=partial(dpmpp, order=3)),
    "dpmpp_2s": FastRecipe(build=partial(dpmpp, order=2, kind="singlestep"), order=2),
    "dpmpp_3s": FastRecipe(build=partial(dpmpp, order=3, kind="singlestep"), order=3),
    "dpm_2m": _inside(dpm_solver),
    "dpm_3m": _inside(partial(dpm_solver, order=3)),
    "dpm_2s": FastRecipe(
        build=partial(dpm_solver, order=2, kind="singlestep"), order=2, grid="uniform_lam", final_zero=False
    ),
    "dpm_3s": FastRecipe(
        build=partial(dpm_solver, order=3, kind="singlestep"), order=3, grid="uniform_lam", final_zero=False
    ),
    "unipc": Recipe(build=unipc),
    "unipc_2": Recipe(build=partial(unipc, order=2)),
    "unipc_3": Recipe(build=partial(unipc, order=3)),
    "deis_tab2": _inside(partial(deis, order=2, kind="tAB")),
    "deis_tab3": _inside(partial(deis, order=3, kind="tAB")),
    "deis_rhoab2": _inside(partial(deis, order=2, kind="rhoAB")),
    "deis_rhoab3": _inside(partial(deis, order=3, kind="rhoAB")),
    "deis_logrhoab2": _inside(partial(deis, order=2, kind="logrhoAB")),
    "deis_rk2": _inside(partial(deis_rk, method="heun2"), calls=2),
    "deis_rk3": _inside(partial(deis_rk, method="kutta3"), calls=3),
    "deis_rk4": _inside(partial(deis_rk, method="rk4"), calls=4),
    "ipndm": Recipe(build=ipndm, final_zero=False),
    "lms": Recipe(build=lms),
    "dpm2": Recipe(build=dpm2, calls=2, last=2, final_zero=False),
    "sde_dpmpp": _two_calls(partial(sde_dpmpp, kind="singlestep")),
    "sde_dpmpp_1": Recipe(build=partial(sde_dpmpp, order=1)),
    "sde_dpmpp_2m": Recipe(build=sde_dpmpp),
    "sde_dpmpp_3m": Recipe(build=partial(sde_dpmpp, order=3, rule="taylor")),
    "seeds_1": Recipe(build=partial(seeds, order=1)),
    "seeds_2": _two_calls(seeds),
    "dpm2_ancestral": _two_calls(dpm2_ancestral),
    "dpmpp_2s_ancestral": _two_calls(dpmpp_2s_ancestral),
    "euler_maruyama": Recipe(build=euler_maruyama),
    "ddim_langevin": _two_calls(langevin),
}
"""Name -> recipe: the list behind `gendyn.plan`, the command line, the shared tests and the README's matrix."""

FITTED: dict[str, Recipe] = {
    "dpm_solver_v3": FittedRecipe(build=dpm_solver_v3, grid="uniform_lam", final_zero=False),
}
"""Samplers that `gendyn.plan` makes only for one model, from its `statistics=`."""

MAPS: dict[str, Recipe] = {"consistency": Recipe(build=consistency, final_zero=False)}
"""Samplers of models that jump to the data (consistency functions); they are no solvers of a denoiser's flow."""


def _flow(build: Callable[..., SamplerPlan], calls: int = 1) -> Recipe:
    """A rule on the clock itself, for interpolants."""
    return Recipe(build=build, calls=calls, last=calls, grid="clock")


FLOW_SAMPLERS: dict[str, Recipe] = {
    "flow_euler": _flow(partial(flow_rk, method="euler")),
    "flow_midpoint": _flow(partial(flow_rk, method="midpoint"), calls=2),
    "flow_heun": _flow(flow_rk, calls=2),
    "flow_rk4": _flow(partial(flow_rk, method="rk4"), calls=4),
    "flow_ab2": _flow(flow_ab),
    "flow_ab3": _flow(partial(flow_ab, order=3)),
    "interpolant_em": _flow(interpolant_em),
    "interpolant_heun": _flow(interpolant_heun, calls=2),
}
"""Samplers of interpolants: they call a velocity or a drift (`processes.fields`), not a denoiser."""


def plan(
    name: str,
    process: Process,
    nfe: int,
    grid: str | Callable[..., Grid] | None = None,
    *,
    grid_options: dict[str, Any] | None = None,
    **options: Any,
) -> SamplerPlan:
    """The short form: a named sampler with exactly `nfe` network calls.

    Args:
        name: one of `SAMPLERS`; with statistics= of the model, of `FITTED`; of an interpolant, of `FLOW_SAMPLERS`;
            of a consistency function, of `MAPS`.
        process: the model's path.
        nfe: network calls per sample.
        grid: name of a grid, or a builder (process, n, **grid_options) -> Grid; by default the recipe's own.
        grid_options: passed to the grid builder: t_start, t_end, final_zero, shift, rho, ...
        options: passed to the solver: eta, churn, ...

    Raises:
        ValueError: an unknown name (the nearest are listed), or an `nfe` the solver cannot make, with the ones it can.

    Example:
        >>> import gendyn as gd
        >>> gd.plan("heun", gd.processes.EDM(), nfe=35).rows
        35
    """
    chosen = recipe(name)
    _matches(name, process)
    if nfe < 1:
        raise ValueError(f"nfe must be at least 1; got {nfe}.")
    candidates = chosen.plans(process, nfe, nodes(name, process, grid, grid_options), options)
    for candidate in candidates:
        if candidate.nfe == nfe:
            return candidate
    possible = ", ".join(str(c.nfe) for c in candidates)
    raise ValueError(f"{name} cannot make exactly {nfe} network calls on this grid; near it, it makes {possible}.")


def nodes(
    name: str,
    process: Process,
    grid: str | Callable[..., Grid] | None = None,
    grid_options: dict[str, Any] | None = None,
) -> Callable[[int], Grid]:
    """The grid that `plan` would put a sampler on, as a function of the number of steps.

    The recipe's final_zero applies to every grid, unless grid_options say otherwise.
    """
    chosen = recipe(name)
    builder = grid if callable(grid) else grid_builder(grid or chosen.grid)
    habit = {} if chosen.final_zero is None else {"final_zero": chosen.final_zero}
    return lambda n: builder(process, n, **(habit | (grid_options or {})))


def recipe(name: str) -> Recipe:
    """The recipe of that name."""
    return _lookup("sampler", name, SAMPLERS | FITTED | FLOW_SAMPLERS | MAPS)


def _matches(name: str, process: Any) -> None:
    """A sampler of denoisers needs a one-sided path, one of fields an interpolant."""
    if isinstance(process, Interpolant) != (name in FLOW_SAMPLERS):
        fits = FLOW_SAMPLERS if isinstance(process, Interpolant) else SAMPLERS
        kind = "is an interpolant between two data sets" if fits is FLOW_SAMPLERS else "has a denoiser"
        raise ValueError(f"{name} does not run on {process}, which {kind}; choose one of {', '.join(fits)}.")


def grid_builder(name: str) -> Callable[..., Grid]:
    """The grid builder of that name."""
    return _lookup("grid", name, {**GRIDS, "clock": clock})


def _lookup(what: str, name: str, table: dict[str, Any]) -> Any:
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(table)}.")
    return table[name]
