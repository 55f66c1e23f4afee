"""Tuned plans: a few numbers, fitted so that few calls do what many would.

A plan is differentiable, and a student with N calls has fewer than a hundred numbers: the nodes, the times that the
network is told, and the coefficients (`tuning_free`). They are fitted to a teacher, the fine solution from the same
starts to the same end (`tuning_teacher`), by comparing final states only (`tuning_solve`).
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
from gendyn.samplers.grids import Grid
from gendyn.samplers.plan import PlanInfo, SamplerPlan
from gendyn.samplers.recipes import FITTED, SAMPLERS, nodes
from gendyn.samplers.triangle import Triangle, triangle
from gendyn.samplers.tuning_free import Base, Family, Labels, MovingGrid, Nodes, Part, Rows
from gendyn.samplers.tuning_solve import (
    Adam,
    Distance,
    Given,
    LevenbergMarquardt,
    LogSquare,
    MeanSquare,
    Optimizer,
    Problem,
    PseudoHuber,
    typical,
)
from gendyn.samplers.tuning_teacher import Pairs, errors, pairs, teacher

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
            the start has, the sums released in a second stage; `Rows()` keeps them.
        distance: `PseudoHuber()` (the default), `LogSquare()`, `MeanSquare()`, each of the states or of features=, or
            any differentiable function (student, target) -> [batch].
        optimizer: `LevenbergMarquardt(...)` or `Adam(...)`; by default the first, if it can.
        teacher_calls: calls of the fine solution, see `teacher`.
        num, held_out: pairs to fit and to select on.
        batch: pairs per compiled call.
        patience: iterates without progress on the held-out pairs after which to stop.
        report: called after every iterate; each stage counts from one.

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
    compared: Any = distance if hasattr(distance, "penalty") else Given(distance) if distance else PseudoHuber()
    stages = _stages(base, free)
    optimizers = [_optimizer(optimizer, compared, family.size) for family in stages]
    made = pairs(base.plan, D, key, shape=shape, cond=cond, num=num + held_out, calls=teacher_calls, batch=batch)
    seed, fit, unseen = int(jax.random.key_data(key).sum()), made.take(slice(num)), made.take(slice(num, None))
    problem = Problem(family=stages[0], D=D, pairs=fit, distance=compared, batch=batch, seed=seed)
    search = _Search(unseen=unseen, before=problem.measures(base.plan, unseen), patience=patience, report=report)
    found, taken = (base.start, search.before), []
    for family, chosen in zip(stages, optimizers):
        taken.append(family.restarted(found[0]))
        found = search.follow(chosen, dataclasses.replace(problem, family=taken[-1]), *found)
    if isinstance(found[0], MovingGrid) or found[0] is start:
        return base.plan
    notes = {
        "tuned_from": base.plan.name,
        "stages": [{"free": [repr(part) for part in family.free], "numbers": family.size} for family in taken],
        "distance": type(compared).__name__,
        "optimizer": [repr(chosen) for chosen in optimizers],
        "teacher": f"{teacher(base.plan, teacher_calls).name}, {teacher_calls} calls",
        "pairs": num,
        "held_out": {
            "pairs": held_out,
            "start": _summary(search.before, compared),
            "tuned": _summary(found[1], compared),
        },
    }
    kept = all(part.consistent for part in stages[-1].free if isinstance(part, Rows))
    order = min(base.plan.order, 1) if kept else 0
    info = PlanInfo(name=f"{base.plan.name}+tuned", order=order, process=process, notes=json.dumps(notes))
    return dataclasses.replace(found[0], info=info)


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


def _stages(base: Base, free: Sequence[Part] | None) -> list[Family]:
    """What moves, first with the sums kept: a fit with released ones, from there, is better and quicker than at once.

    The grid's part comes before those that correct what it gives.
    """
    if free is None:
        free = (*[Nodes()] * isinstance(base.start, MovingGrid), Labels(), Rows(consistent=False))
    parts = sorted(free, key=lambda part: not isinstance(part, Nodes))
    kept = [dataclasses.replace(part, consistent=True) if isinstance(part, Rows) else part for part in parts]
    stages = [Family(base=base, free=tuple(stage)) for stage in ([parts] if kept == parts else [kept, parts])]
    if not any(stage.size for stage in stages):
        raise ValueError(
            "nothing can move: give free= at least one of Nodes(), Labels(), Rows(); one call with its sums kept has "
            "no freedom, so there use Rows(consistent=False)."
        )
    return [stage for stage in stages if stage.size]


def _optimizer(given: Optimizer | None, distance: Any, size: int) -> Optimizer:
    squares = hasattr(distance, "weight")
    if isinstance(given, LevenbergMarquardt) and not squares:
        raise ValueError(
            "Levenberg-Marquardt needs a distance made of squares: PseudoHuber, LogSquare or MeanSquare, of states or "
            "features=; for any other function use optimizer=Adam()."
        )
    return given or (LevenbergMarquardt() if squares and size <= FEW else Adam())


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
    if name in FITTED:
        raise ValueError(f"{name} does not follow a grid that moves; tune gd.plan({name!r}, ...) as an ordinary plan.")
    for n in range(nfe, 0, -1):
        start = MovingGrid(solver=partial(SAMPLERS[name].build, **options), grid=on(n))
        if start.plan().nfe == nfe:
            return start
    raise ValueError(f"{name} makes {nfe} network calls on no grid of this kind; try one call more or fewer.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Search:
    """What is the same in every stage: the held-out pairs, the start's measures there, when to stop, whom to tell."""

    unseen: Pairs
    before: np.ndarray
    patience: int
    report: Report

    def follow(
        self, optimizer: Optimizer, problem: Problem, start: SamplerPlan | MovingGrid, best: np.ndarray
    ) -> tuple[SamplerPlan | MovingGrid, np.ndarray]:
        """Until the held-out pairs say that it is done: (the best plan, or the start, and its measures there)."""
        found, idle = start, 0
        for count, values in enumerate(optimizer.iterates(problem), 1):
            plan = problem.family.plan(values)
            measures = problem.measures(plan, self.unseen)
            self.report(count, *_summary(measures, problem.distance).values())
            idle += 1
            if _better(measures, best, self.before, problem.distance):
                found, best, idle = dataclasses.replace(plan, info=problem.family.base.plan.info), measures, 0
            if idle >= self.patience:
                break
        return found, best


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
