"""gendyn tune: a plan of few calls, fitted to a run's model."""

from __future__ import annotations

import dataclasses
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gendyn.cli.common import Drawing, chosen_plan, from_prior, open_model, parse, progress
from gendyn.samplers import FITTED, MovingGrid, SamplerPlan, save, tune, tuning
from gendyn.training import Model, Sampling, guided


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tune(Drawing):
    """Fit grid, times and coefficients of a deterministic sampler to the fine solution; `gendyn sample --plan` uses it.

    A plan is for one model, one guidance weight and one number of calls.
    """

    num: int = 512
    """Pairs of start and fine solution to fit."""
    held_out: int = 512
    """Pairs to select on; as many fresh ones are measured before and after."""
    iterations: int = 40
    """At most; fitting stops when held-out pairs no longer improve."""
    consistent: bool = False
    """Keep order 1 (exactness for data at one point): fits a little worse with few calls, safer with few pairs."""
    teacher_calls: int = 200
    """Network calls of the fine solution."""
    out: str | None = None
    """File to write; RUN/plans/SAMPLER_NFE_GUIDANCE.npz by default."""


def run(argv: list[str]) -> int:
    """Fit a plan to a run's model; exit status."""
    options: Tune = parse(Tune, argv, prog="gendyn tune", description=Tune.__doc__ or "")
    model = from_prior(options, open_model(options), "tune")
    sampling = options.sampling(model.experiment.sampling)
    start = _start(options, model, sampling)
    before = start.plan() if isinstance(start, MovingGrid) else start
    began = time.perf_counter()
    tuned = _tune(options, model, sampling, start)
    seconds = time.perf_counter() - began
    if tuned.name == before.name:
        print(f"{before.name}, {before.nfe} calls: no plan was better on held-out pairs; nothing was written.")
        return 0
    default = f"{options.sampler or before.name}_nfe{tuned.nfe}_guidance{sampling.guidance:g}.npz"
    path = epath.Path(options.out or epath.Path(options.run) / "plans" / default)
    save(path, _described(tuned, options, model, sampling))
    print(
        f"{before.name}, {before.nfe} network calls; distance from the fine solution, {options.held_out} fresh starts:"
    )
    for name, each in zip(("before", "after"), _measured(options, model, sampling, (before, tuned))):
        median, q90, rms = np.median(each), np.quantile(each, 0.9), np.sqrt(np.mean(each**2))
        print(f"  {name:6}  median {median:.4g}  q90 {q90:.4g}  rmse {rms:.4g}")
    print(f"{seconds:.0f} s; written to {path}")
    return 0


def _start(options: Tune, model: Model, sampling: Sampling) -> SamplerPlan | MovingGrid:
    """A moving grid wherever the sampler can be solved on one, else an ordinary plan."""
    if options.plan or sampling.sampler in FITTED:
        return chosen_plan(options, model, sampling)
    return tuning.moving(sampling.sampler, model.process, sampling.nfe, sampling.grid, **sampling.options)


def _conditions(model: Model) -> jax.Array | None:
    return None if model.num_classes is None else jnp.arange(model.num_classes)


def _tune(options: Tune, model: Model, sampling: Sampling, start: SamplerPlan | MovingGrid) -> SamplerPlan:
    nodes = (tuning.Nodes(),) if isinstance(start, MovingGrid) else ()
    with progress("tuning", options.iterations) as report:
        return tune(
            start,
            guided(model.denoiser, sampling.guidance, model.num_classes),
            model.process,
            jax.random.key(options.seed),
            shape=model.shape,
            cond=_conditions(model),
            free=(*nodes, tuning.Labels(), tuning.Rows(consistent=options.consistent)),
            optimizer=tuning.LevenbergMarquardt(iterations=options.iterations),
            teacher_calls=options.teacher_calls,
            num=options.num,
            held_out=options.held_out,
            batch=options.batch,
            report=lambda iterate, median, rms: report(iterate),
        )


def _described(plan: SamplerPlan, options: Tune, model: Model, sampling: Sampling) -> SamplerPlan:
    """The plan, with its model in the notes."""
    assert plan.info is not None
    notes = json.loads(plan.info.notes) | {
        "run": options.run,
        "step": model.step,
        "weights": model.weights,
        "guidance": sampling.guidance,
    }
    return dataclasses.replace(plan, info=dataclasses.replace(plan.info, notes=json.dumps(notes)))


def _measured(options: Tune, model: Model, sampling: Sampling, plans: tuple[SamplerPlan, ...]) -> list[np.ndarray]:
    """Per-start errors of each plan on starts that tuning has not seen."""
    D, key = guided(model.denoiser, sampling.guidance, model.num_classes), jax.random.key(options.seed)
    fresh = tuning.pairs(
        plans[0],
        D,
        jax.random.fold_in(key, 1),
        shape=model.shape,
        num=options.held_out,
        cond=_conditions(model),
        calls=options.teacher_calls,
        batch=options.batch,
    )
    return [tuning.errors(plan, D, fresh, options.batch) for plan in plans]
