"""Sampler studies: many (sampler, grid, calls) cells on one model, measured against the fine solution.

Plans are tables, so a study pads them to one shape and runs them all through one program: deterministic cells share
one, stochastic cells another, the fine solution has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax
import numpy as np

from gendyn.processes import Interpolant, Process
from gendyn.processes.fields import Direction, Fields, OfGamma
from gendyn.samplers.flow import clock, flow_rk
from gendyn.samplers.grids import explicit, uniform_lam
from gendyn.samplers.heun import heun
from gendyn.samplers.plan import SamplerPlan
from gendyn.samplers.recipes import grid_builder, nodes, plan, recipe
from gendyn.samplers.run import run

Quality: TypeAlias = Callable[[np.ndarray], dict[str, float]]
"""Samples [n, *data] -> named measures, for example a Frechet distance."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of a study; `options` go to the solver (eta, order, statistics, ...)."""

    sampler: str
    grid: str
    nfe: int
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> tuple[str, str, int]:
        return self.sampler, self.grid, self.nfe

    def build(self, process: Process, **ends: Any) -> SamplerPlan:
        return plan(self.sampler, process, self.nfe, self.grid, grid_options=ends, **self.options)

    def clean(self, process: Process, **ends: Any) -> bool:
        """Whether the cell's grid ends without noise."""
        return nodes(self.sampler, process, self.grid, ends)(2).clean


def cells(
    samplers: Iterable[str],
    grids: Iterable[str],
    nfes: Iterable[int],
    options: Mapping[str, dict[str, Any]] | None = None,
) -> list[Cell]:
    """Every combination; `options` are solver options by sampler, for example {"dpm_solver_v3": {"statistics": s}}.

    Raises:
        ValueError: an unknown sampler or grid.
    """
    samplers, grids, options = list(samplers), list(grids), options or {}
    for name in samplers:
        recipe(name)
    for name in grids:
        grid_builder(name)
    return [Cell(sampler=s, grid=g, nfe=n, options=options.get(s, {})) for s in samplers for g in grids for n in nfes]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The plans of a study, padded, and the cells that cannot be built, with the reason."""

    plans: dict[tuple[str, str, int], SamplerPlan]
    refused: dict[tuple[str, str, int], str]

    @property
    def nfe(self) -> int:
        """Network calls of all cells together."""
        return sum(p.nfe for p in self.plans.values())


def prepare(process: Process, chosen: Sequence[Cell], **ends: Any) -> Prepared:
    """Build every plan and pad deterministic and stochastic ones to one shape each.

    Args:
        ends: options for every grid (t_start, t_end, final_zero, ...), so that all cells solve the same problem.
    """
    plans, refused = {}, {}
    for cell in chosen:
        try:
            plans[cell.key] = cell.build(process, **ends)
        except ValueError as error:
            refused[cell.key] = str(error)
    window = max((p.window for p in plans.values()), default=1)
    rows = max((p.rows for p in plans.values()), default=1)
    draws = max((p.draws for p in plans.values()), default=0)
    return Prepared(
        plans={k: p.pad(rows=rows, window=window, draws=draws if p.draws else 0) for k, p in plans.items()},
        refused=refused,
    )


def fine_plan(process: Process, start: float, end: float, steps: int = 200) -> SamplerPlan:
    """Heun on a log-SNR grid between two times, 2 `steps` calls: the reference solution."""
    return heun(process, uniform_lam(process, steps, t_start=start, t_end=end, final_zero=False))


def study(
    process: Process,
    D: Callable[..., Any],
    x_T: Any,
    chosen: Sequence[Cell],
    *,
    key: Any = None,
    cond: Any = None,
    quality: Quality | None = None,
    fine_steps: int = 200,
    done: Iterable[tuple[str, str, int]] = (),
    **ends: Any,
) -> Iterator[dict[str, Any]]:
    """Run the cells from one set of starts, yielding a row per cell.

    A row has sampler, grid, nfe, clean (whether the plan ends without noise), the per-start root-mean-square error to
    the fine solution of the same end (its median, 0.9 quantile, and `rmse` over all starts; deterministic plans only),
    and the entries of `quality`. A cell that cannot be built yields its reason under "refused".

    Args:
        D: denoiser; of an interpolant its `Fields`, of which cells call the velocity or the drift of their diffusion.
        x_T: starts at the noise end of the sampling interval, [n, *data]; of an interpolant, at the side it leaves.
        key: for stochastic cells.
        quality: measures of the samples.
        fine_steps: Heun steps of the reference, twice as many calls.
        done: keys to leave out (a resumed study).
        ends: common grid options.

    Cost: the summed calls of the cells, plus 2 fine_steps + 1 for the reference; three compiled programs.
    """
    done = set(done)
    todo = [cell for cell in chosen if cell.key not in done]
    prepared = prepare(process, todo, **ends)
    reference: dict[tuple[float, float], tuple[np.ndarray, np.ndarray]] = {}
    for cell in todo:
        row: dict[str, Any] = {"sampler": cell.sampler, "grid": cell.grid, "nfe": cell.nfe}
        if cell.key in prepared.refused:
            yield row | {"refused": prepared.refused[cell.key]}
            continue
        each = prepared.plans[cell.key]
        x = np.asarray(run(each, _called(D, cell, each), x_T, key=key, cond=cond))
        clean = cell.clean(process, **ends)
        row |= {"clean": clean}
        if not each.draws:
            span = _span(process, each, **ends)
            if span not in reference:
                reference[span] = _fine(process, D, x_T, cond, *span, fine_steps, each)
            row |= _errors(x, reference[span][int(clean)])
        yield row | (quality(x) if quality else {})


def _called(D: Any, cell: Cell, each: SamplerPlan) -> Any:
    """The model itself, or, for an SDE of an interpolant, the drift that its plan names."""
    if not (each.draws and isinstance(D, Fields)):
        return D
    direction: Direction = "forward" if each.field.startswith("forward") else "backward"
    return D.drift(cell.options.get("diffusion", OfGamma()), direction)


def _span(process: Process, each: SamplerPlan, **ends: Any) -> tuple[float, float]:
    """First node of the plan, and the last one above zero, where the reference ends (then one denoising step)."""
    if isinstance(process, Interpolant):
        start, end = clock(process, 1, **ends).t
        return float(start), float(end)
    asked = ends.get("t_end")
    end = process.interval[1] if asked is None else float(asked)
    with np.errstate(divide="ignore"):
        if not np.isfinite(process.lam(end)):
            end = float(process.t_of_lam(-np.log(0.002)))
    return float(each.t[0]), float(end)


def _fine(
    process: Process, D: Any, x_T: Any, cond: Any, start: float, end: float, steps: int, like: SamplerPlan
) -> tuple[np.ndarray, np.ndarray]:
    """The fine solution at the end, and denoised there (in the program of the cells, whose shape `like` has).

    An interpolant ends where its clock does, with nothing left to denoise.
    """
    if isinstance(process, Interpolant):
        fine = flow_rk(process, clock(process, steps, t_start=start, t_end=end))
        x = np.asarray(run(fine, D, x_T, cond=cond))
        return x, x
    with np.errstate(divide="ignore"):
        if not np.isfinite(process.lam(start)):
            first = explicit(process, times=[start, float(process.t_of_lam(-np.log(1e4)))])
            x_T = run(heun(process, first), D, x_T, cond=cond)
            start = float(first.t[-1])
    x = run(fine_plan(process, start, end, steps), D, x_T, cond=cond)
    denoise = heun(process, explicit(process, times=[end], final_zero=True)).pad(like.rows, like.window)
    return np.asarray(x), np.asarray(run(denoise, D, x, cond=cond))


def _errors(x: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    each = np.sqrt(np.mean((x - exact).reshape(len(x), -1) ** 2, axis=1))
    return {
        "median_error": float(np.median(each)),
        "q90_error": float(np.quantile(each, 0.9)),
        "rmse": float(np.sqrt(np.mean(each**2))),
    }


def calls(D: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[[], int]]:
    """A denoiser that counts how often it is really called, and the count: for checking claims about NFE."""
    counted = 0

    def count() -> None:
        nonlocal counted
        counted += 1

    def counting(x: Any, t: Any, cond: Any = None) -> Any:
        jax.debug.callback(count)
        return D(x, t, cond)

    return counting, lambda: counted
