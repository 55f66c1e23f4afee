"""What does tuning a plan buy on mixtures, held-out starts against the best of all untuned samplers and grids?

Run:      python -m benchmarks.tuned_mixture
Takes:    about ten minutes on two CPU cores; each tuning 3 to 45 seconds of processor time, compilation included.
Measures: per number of calls and mixture, median, quantiles and root mean square of the per-start error to the fine
          solution (each plan's own end), on fresh starts. "Untuned" is the smallest value of each measure over every
          deterministic sampler on every grid of GRIDS, so two plans may share its credit. "Tuned" starts from one
          sampler on one grid, the same everywhere: once with its sums kept (order 1) and once with them released.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import tyro

import gendyn as gd
from benchmarks.common import record
from gendyn.samplers import SAMPLERS, grids, tuning


@dataclass(frozen=True, kw_only=True)
class Config:
    """Tuned plans on mixtures."""

    nfe: tuple[int, ...] = (4, 5, 6, 8, 10)
    starts: int = 4096
    pairs: int = 1024
    held_out: int = 1024
    fine_calls: int = 400
    seed: int = 0


def quadratic(process: gd.processes.Process, n: int, final_zero: bool = False) -> grids.Grid:
    """Quadratic in VP-linear's time, carried to another path at equal lam, between the ends of its Karras grid."""
    ends = grids.karras(process, 1, final_zero=False).lam
    vp = gd.processes.VPLinear()
    start, end = (float(vp.t_of_lam(lam)) for lam in ends)
    lam = grids.power(vp, n - final_zero, 2.0, t_start=start, t_end=end, final_zero=False).lam
    return grids.explicit(process, lam=lam, final_zero=final_zero)


GRIDS: dict[str, Callable[..., grids.Grid]] = {
    "uniform_t": grids.uniform_t,
    "uniform_lam": grids.uniform_lam,
    "karras3": partial(grids.karras, rho=3.0),
    "karras5": partial(grids.karras, rho=5.0),
    "karras7": partial(grids.karras, rho=7.0),
    "power2": partial(grids.power, exponent=2.0),
    "power3": partial(grids.power, exponent=3.0),
    "quadratic": quadratic,
}
"""Each once to the end of the interval and once to a clean node."""

MIXTURES: dict[str, tuple[int, int, gd.processes.Process]] = {
    "d2k8_edm": (2, 8, gd.processes.EDM()),
    "d8k6_vp": (8, 6, gd.processes.VPLinear()),
    "d16k10_edm": (16, 10, gd.processes.EDM()),
}
"""Dimension, components, path."""


def mixture(dim: int, components: int) -> gd.oracles.GaussianMixture:
    """Means of unit variance, standard deviations between 0.05 and 0.4 per coordinate."""
    random = np.random.default_rng(1000 * dim + components)
    weights, means = random.uniform(0.5, 1.5, components), random.standard_normal((components, dim))
    return gd.oracles.GaussianMixture(weights, means, random.uniform(0.05, 0.4, (components, dim)) ** 2)


def errors(x: Any, target: Any) -> np.ndarray:
    return np.sqrt(np.mean((np.asarray(x) - np.asarray(target)) ** 2, axis=1))


def summary(each: np.ndarray) -> dict[str, float]:
    quantiles = {f"q{q}": float(np.quantile(each, q / 100)) for q in (25, 75, 90, 99)}
    return {"median": float(np.median(each)), "rmse": float(np.sqrt(np.mean(each**2)))} | quantiles


def untuned(process: gd.processes.Process, nfe: int) -> dict[str, gd.samplers.SamplerPlan]:
    """Every deterministic sampler on every grid and end that admits it."""
    found = {}
    for name in SAMPLERS:
        for grid, builder in GRIDS.items():
            for clean in (False, True):
                try:
                    plan = gd.plan(name, process, nfe, builder, grid_options={"final_zero": clean})
                except ValueError:
                    continue
                if not plan.draws:
                    found[f"{name}/{grid}/{'clean' if clean else 'end'}"] = plan
    return found


def tuned(
    config: Config, process: gd.processes.Process, D: Any, dim: int, nfe: int, rows: tuning.Rows
) -> tuple[gd.samplers.SamplerPlan, dict[str, float]]:
    """The plan, and its seconds on the clock and of the processor, compilation included."""
    jax.clear_caches()
    wall, cpu = time.perf_counter(), time.process_time()
    plan = gd.samplers.tune(
        gd.samplers.MovingGrid(solver=gd.samplers.ipndm, grid=quadratic(process, nfe)),
        D,
        process,
        jax.random.key(config.seed),
        shape=(dim,),
        free=(tuning.Nodes(), tuning.Labels(), rows),
        num=config.pairs,
        held_out=config.held_out,
    )
    return plan, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def measure(config: Config, dim: int, components: int, process: gd.processes.Process) -> dict[str, Any]:
    D = mixture(dim, components).denoiser(process)
    fresh = jax.random.fold_in(jax.random.key(config.seed), 1)
    draw = partial(tuning.pairs, D=D, key=fresh, shape=(dim,), num=config.starts, calls=config.fine_calls)
    targets: dict[tuple[float, bool], Any] = {}

    def error(plan: gd.samplers.SamplerPlan) -> np.ndarray:
        end = float(plan.t[0]), float(plan.clock[-1, 1])
        if end not in targets:
            targets[end] = draw(plan)
        padded = plan.pad(rows=2 * max(config.nfe), window=max(config.nfe))
        return errors(gd.samplers.run(padded, D, targets[end].x_T), targets[end].target)

    results = {}
    for nfe in config.nfe:
        rivals = {name: summary(error(plan)) for name, plan in untuned(process, nfe).items()}
        best = {key: min(rivals.items(), key=lambda item, key=key: item[1][key]) for key in ("median", "rmse")}
        entry: dict[str, Any] = {f"untuned_by_{key}": {"plan": plan} | values for key, (plan, values) in best.items()}
        entry["rivals"] = len(rivals)
        for name, rows in (("consistent", tuning.Rows()), ("released", tuning.Rows(consistent=False))):
            plan, seconds = tuned(config, process, D, dim, nfe, rows)
            values = summary(error(plan))
            ratios = {f"{key}_ratio": values[key] / best[key][1][key] for key in best}
            entry[name] = values | ratios | seconds | {"notes": json.loads(plan.info.notes or "{}")}
            print(nfe, name, {k: float(f"{v:.3g}") for k, v in (values | ratios | seconds).items()}, flush=True)
        results[str(nfe)] = entry
    return results


def main(config: Config) -> None:
    results = {}
    for name, (dim, components, process) in MIXTURES.items():
        print(name, flush=True)
        results[name] = measure(config, dim, components, process)
    print(record("tuned_mixture", results, asdict(config)))


if __name__ == "__main__":
    main(tyro.cli(Config))
