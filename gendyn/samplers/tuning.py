"""Tuned plans: a few numbers, fitted so that few calls do what many would.

A plan is differentiable, and a student with N calls has fewer than a hundred numbers: the nodes, the times that the
network is told, and the coefficients (`tuning_free`). They are fitted to a teacher, the fine solution from the same
starts to the same end, by comparing final states only (`tuning_solve`), with no gradient to the network's weights.
What comes out is an ordinary plan: it is saved, padded, stacked, printed and run like any other.

Reference points: Tong et al. 2024, "LD3" (arXiv 2405.15506); Shaul et al. 2024 (arXiv 2403.01329); Frankel et al. 2025,
"S4S" (arXiv 2502.17423). Corrections are added to a base solver on a moving grid; a robust distance is needed because
about one start in a hundred lies near a boundary of basins and would dominate the mean square.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from gendyn.processes import Process
from gendyn.samplers.adaptive import default_ends
from gendyn.samplers.grids import Grid, explicit
from gendyn.samplers.plan import PlanInfo, SamplerPlan
from gendyn.samplers.recipes import SAMPLERS, nodes
from gendyn.samplers.run import run
from gendyn.samplers.tuning_free import Base, Family, Labels, MovingGrid, Nodes, Part, Rows, Triangle, triangle
from gendyn.samplers.tuning_solve import (
    Adam,
    Distance,
    Given,
    LevenbergMarquardt,
    LogSquare,
    MeanSquare,
    Optimizer,
    Pairs,
    Problem,
    PseudoHuber,
    typical,
)
from gendyn.samplers.unipc import unipc

__all__ = [
    "Adam",
    "Distance",
    "Labels",
    "LevenbergMarquardt",
    "LogSquare",
    "MeanSquare",
    "MovingGrid",
    "Nodes",
    "Optimizer",
    "Pairs",
    "PseudoHuber",
    "Rows",
    "Triangle",
    "errors",
    "moving",
    "pairs",
    "teacher",
    "triangle",
    "tune",
]

FEW = 200
"""Numbers up to which Levenberg-Marquardt is the default."""

PURE_NOISE = 1e-4
"""alpha/sigma where a teacher's first step out of pure noise ends; over it D is the data's mean to that precision."""

Report = Callable[[int, float, float], None]
"""(iterate, median error on held-out pairs, root mean square)."""


def tune(
    start: SamplerPlan | MovingGrid,
    D: Callable[..., Any],
    process: Process,
    key: PRNGKeyArray,
    *,
    shape: tuple[int, ...],
    cond: Any = None,
    free: Sequence[Part] | None = None,
    distance: Distance | Callable[[Any, Any], Any] | None = None,
    optimizer: Optimizer | None = None,
    teacher_calls: int = 200,
    num: int = 512,
    held_out: int = 512,
    batch: int = 1024,
    patience: int = 12,
    report: Report = lambda iterate, median, rms: None,
) -> SamplerPlan:
    """Fit a plan to one denoiser.

    Of all iterates, the one with the least penalty on held-out pairs is kept, among those for which neither the mean
    nor the median of the distance there is above the start's; if there is none, the start itself is returned.

    Args:
        start: a deterministic plan, or a solver on a grid that moves too: `MovingGrid(solver=ddim, grid=grid)`.
        D: denoiser, a pytree callable; guided and conditional ones too, for which a plan is tuned at one weight.
        process: its path.
        key: of the starts. The result is a function of it.
        shape: of one example.
        cond: conditions to be used in turn, leading axis any length: `jnp.arange(num_classes)`.
        free: which numbers move, of `Nodes()`, `Labels()`, `Rows(consistent=..., per_element=...)`. By default all that
            the start has, with consistency kept.
        distance: `PseudoHuber()` (the default), `LogSquare()`, `MeanSquare()`, each of the states or of features=, or
            any differentiable function (student, target) -> [batch].
        optimizer: `LevenbergMarquardt(...)` or `Adam(...)`; by default the first, if it can.
        teacher_calls: calls of the fine solution, see `teacher`.
        num, held_out: pairs to fit and to select on.
        batch: pairs per compiled call.
        patience: iterates without progress on the held-out pairs after which to stop.
        report: called after every iterate.

    Returns:
        a plan with as many calls, order 1 if consistency was kept and 0 if not, and in `info.notes`, as JSON, where it
        comes from and the held-out errors of start and result.

    Cost: (num + held_out) teacher_calls network calls, then per iteration of Levenberg-Marquardt as much as
    (numbers + 1) nfe num calls.

    Raises:
        ValueError: a stochastic plan; one whose first row calls nothing, or of another process; `Nodes()` without a
            moving grid; a distance that the optimizer cannot serve.

    Example:
        >>> import gendyn as gd, jax
        >>> process = gd.processes.EDM()
        >>> D = gd.oracles.GaussianMixture([1.0, 1.0], [[-1.0], [1.0]], [[0.01], [0.01]]).denoiser(process)
        >>> quick = LevenbergMarquardt(iterations=1)
        >>> plan = gd.plan("ddim", process, nfe=2)
        >>> tune(plan, D, process, jax.random.key(0), shape=(1,), optimizer=quick, num=8, held_out=8).nfe
        2
    """
    base = Base(start=start, example=tuple(shape))
    _check(base, process, num, held_out)
    family = Family(base=base, free=_parts(start, free))
    compared: Any = distance if hasattr(distance, "penalty") else Given(distance) if distance else PseudoHuber()
    chosen = _optimizer(optimizer, compared, family.size)
    made = pairs(base.plan, D, key, shape=shape, cond=cond, num=num + held_out, calls=teacher_calls, batch=batch)
    problem = Problem(
        family=family,
        D=D,
        pairs=made.take(slice(num)),
        distance=compared,
        batch=batch,
        seed=int(np.asarray(jax.random.key_data(key)).sum()),
    )
    found = _select(problem, made.take(slice(num, None)), chosen, patience, report)
    if found.values is None:
        return base.plan
    notes = {
        "tuned_from": base.plan.name,
        "free": [repr(part) for part in family.free],
        "numbers": family.size,
        "distance": type(compared).__name__,
        "optimizer": repr(chosen),
        "teacher": teacher(base.plan, teacher_calls).name,
        "pairs": num,
        "held_out": {"pairs": held_out, "start": found.before, "tuned": found.after},
    }
    kept = all(part.consistent for part in family.free if isinstance(part, Rows))
    info = PlanInfo(
        name=f"{base.plan.name}+tuned",
        order=min(base.plan.order, 1) if kept else 0,
        process=process,
        notes=json.dumps(notes),
    )
    return dataclasses.replace(family.plan(found.values), info=info)


def _check(base: Base, process: Process, num: int, held_out: int) -> None:
    plan = base.plan
    if plan.draws:
        raise ValueError(
            f"{plan.name} draws noise, so its samples cannot be compared with a teacher's start by start; tune a "
            "deterministic plan (ddim, dpmpp, unipc, ..., or eta=0)."
        )
    if not plan.call[0]:
        raise ValueError(
            f"{plan.name} makes no call in its first row, whose time says where a plan starts; tune it without."
        )
    if plan.process != process:
        raise ValueError(
            f"the plan was made for {plan.process}, the denoiser for {process}: build both from one process."
        )
    if plan.data_shape and plan.data_shape != base.example:
        raise ValueError(f"the plan's coefficients are for data of shape {plan.data_shape}, not {base.example}.")
    if min(num, held_out) < 1:
        raise ValueError(f"num and held_out must be at least 1; got {num} and {held_out}.")


def _parts(start: SamplerPlan | MovingGrid, free: Sequence[Part] | None) -> tuple[Part, ...]:
    """The parts, the grid's first, since the others correct what it gives."""
    if free is None:
        free = (Nodes(), Labels(), Rows()) if isinstance(start, MovingGrid) else (Labels(), Rows())
    if not free:
        raise ValueError("nothing is free: give free= at least one of Nodes(), Labels(), Rows().")
    return tuple(sorted(free, key=lambda part: not isinstance(part, Nodes)))


def _optimizer(given: Optimizer | None, distance: Any, size: int) -> Optimizer:
    squares = hasattr(distance, "weight")
    if isinstance(given, LevenbergMarquardt) and not squares:
        raise ValueError(
            "Levenberg-Marquardt needs a distance made of squares: PseudoHuber, LogSquare or MeanSquare, of states or "
            "features=; for any other function use optimizer=Adam()."
        )
    return given or (LevenbergMarquardt() if squares and size <= FEW else Adam())


def teacher(plan: SamplerPlan, calls: int = 200) -> SamplerPlan:
    """A fine plan between the same ends: UniPC of third order, uniform in lam, and denoised at the end if `plan` is.

    Out of pure noise it takes one step of DDIM, exact there up to PURE_NOISE; a clean end is approached to the last
    time of the process's interval, and then denoised.

    Example:
        >>> import gendyn as gd
        >>> teacher(gd.plan("ddim", gd.processes.EDM(), nfe=5), calls=100).nfe
        100
    """
    base = Base(start=plan, example=())
    process, clean = plan.process, not np.isfinite(base.end)
    first, noisy = base.lam[0], not np.isfinite(base.lam[0])
    end = process.lam(np.float64(default_ends(process)[1])) if clean else base.end
    inner = np.linspace(np.log(PURE_NOISE) if noisy else first, end, calls + 1 - noisy - clean)
    times = np.asarray(process.t_of_lam(inner))
    times = np.concatenate([plan.t[:1], times if noisy else times[1:]])
    return unipc(process, explicit(process, times=times, final_zero=clean), order=3, lower_order_final=False)


def pairs(
    plan: SamplerPlan,
    D: Callable[..., Any],
    key: PRNGKeyArray,
    *,
    shape: tuple[int, ...],
    num: int,
    cond: Any = None,
    calls: int = 200,
    batch: int = 1024,
) -> Pairs:
    """Starts of a plan drawn from the prior, and where `teacher` takes them.

    Args:
        cond: conditions, used in turn.
    """
    process = plan.process
    x_T = process.sample_prior(key, (num, *shape), t=plan.t[0])
    if cond is not None:
        cond = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf)[np.arange(num) % len(leaf)], cond)
    fine, starts = teacher(plan, calls), Pairs(x_T=x_T, cond=cond, target=x_T)
    ends = [run(fine, D, some.x_T, cond=some.cond) for some in starts.batches(batch)]
    return dataclasses.replace(starts, target=jax.numpy.concatenate(ends))


def errors(plan: SamplerPlan, D: Callable[..., Any], compared: Pairs, batch: int = 1024) -> np.ndarray:
    """Root-mean-square distance of a plan from the teacher, per start, [n]."""
    ends = [np.asarray(run(plan, D, some.x_T, cond=some.cond)) for some in compared.batches(batch)]
    apart = np.concatenate(ends).astype(np.float64) - np.asarray(compared.target)
    return np.sqrt(np.mean(apart.reshape(len(compared), -1) ** 2, axis=1))


def moving(
    name: str,
    process: Process,
    nfe: int,
    grid: str | Callable[..., Grid] | None = None,
    *,
    grid_options: dict[str, Any] | None = None,
    **options: Any,
) -> MovingGrid:
    """The short form: like `gendyn.plan`, with a grid that moves. Samplers of `FITTED` tune as ordinary plans.

    Raises:
        ValueError: an unknown name, or a number of calls that the sampler does not make on any grid.

    Example:
        >>> import gendyn as gd
        >>> moving("heun", gd.processes.EDM(), nfe=7).grid.steps
        4
    """
    on = nodes(name, process, grid, grid_options)
    for n in range(nfe, 0, -1):
        start = MovingGrid(solver=partial(SAMPLERS[name].build, **options), grid=on(n))
        if start.grid.steps <= nfe and start.plan().nfe == nfe:
            return start
    raise ValueError(f"{name} makes {nfe} network calls on no grid of this kind; try one call more or fewer.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """The best numbers, None for the start itself, and the held-out errors of start and best."""

    values: np.ndarray | None
    before: dict[str, float]
    after: dict[str, float]


def _select(problem: Problem, held_out: Pairs, optimizer: Optimizer, patience: int, report: Report) -> _Found:
    """Follow an optimizer until held-out pairs say that it is done; see `tune` for what is kept."""
    start = best = problem.measures(problem.family.base.plan, held_out)
    values, idle = None, 0
    for count, iterate in enumerate(optimizer.iterates(problem), 1):
        measures = problem.measures(problem.family.plan(iterate), held_out)
        report(count, *_summary(measures, problem.distance).values())
        if _better(measures, best, start, problem.distance):
            values, best, idle = iterate, measures, 0
        else:
            idle += 1
        if idle >= patience:
            break
    return _Found(values=values, before=_summary(start, problem.distance), after=_summary(best, problem.distance))


def _better(measures: np.ndarray, best: np.ndarray, start: np.ndarray, distance: Any) -> bool:
    """A smaller penalty, at the scale of the best so far, and neither mean nor median above the start's."""
    scale = typical(best)
    smaller = distance.penalty(measures, scale).mean() < distance.penalty(best, scale).mean()
    return bool(smaller and measures.mean() <= start.mean() and np.median(measures) <= np.median(start))


def _summary(measures: np.ndarray, distance: Any) -> dict[str, float]:
    """Per-start errors (roots of the mean squares), or values of a given distance."""
    each = np.sqrt(measures) if hasattr(distance, "weight") else measures
    overall = float(np.sqrt(np.mean(each**2)))
    return {"median": float(np.median(each)), "rmse": overall}
