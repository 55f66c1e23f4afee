"""What does tuning a plan buy on a trained network, held-out starts against the best of all untuned samplers and grids?

Run:      python -m benchmarks.tuned_digits --run runs/digits
Takes:    three minutes of tuning for four calls and six for six, on two CPU cores shared with other work, and as much
          again for the rivals; --nfe 8 10 --pairs 64 for the rest.
Measures: as `tuned_mixture`, on a run of `gendyn train digits_edm`, conditional, without guidance. Every rival is
          measured on a few starts; the FINALISTS best by median and by root mean square are measured on all of them.
          DPM-Solver-v3 with the run's own statistics, where it has them, is a rival too.
Writes:   benchmarks/results/tuned_digits.json and docs/explanation/tuned_plans.md.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import textwrap
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import gendyn as gd
from benchmarks.common import command, record, recorded
from benchmarks.tuned_mixture import quadratic, summary, untuned
from gendyn.cli.common import statistics_file
from gendyn.samplers import SamplerPlan, tuning

FINALISTS = 3
PAGE = pathlib.Path(__file__).parent.parent / "docs" / "explanation" / "tuned_plans.md"
KINDS = {"released": tuning.Rows(consistent=False)}
"""What is tuned beside nodes and labels; with few calls, releasing the sums is what pays (`tuned_mixture`)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    run: str = "runs/digits"
    nfe: tuple[int, ...] = (4,)
    starts: int = 4096
    few: int = 64
    """Starts on which all rivals are measured."""
    pairs: int = 256
    held_out: int = 256
    iterations: int = 10
    """Of Levenberg-Marquardt."""
    teacher_calls: int = 40
    seed: int = 0


def rivals(model: Any, nfe: int, statistics: Any) -> dict[str, SamplerPlan]:
    found = untuned(model.process, nfe)
    if statistics is not None:
        for grid in ("uniform_lam", "karras"):
            options = {"statistics": statistics, "shape": model.shape}
            found[f"dpm_solver_v3/{grid}/end"] = gd.plan("dpm_solver_v3", model.process, nfe, grid, **options)
    return found


def judge(settings: Settings, model: Any, num: int) -> Callable[[SamplerPlan], np.ndarray]:
    """Plan -> error of every start to the fine solution with the plan's own end, [num]; ends are solved once."""
    cond = jnp.arange(model.num_classes)
    key = jax.random.fold_in(jax.random.key(settings.seed), 1)
    kept: dict[tuple[float, float], tuning.Pairs] = {}

    def errors(plan: SamplerPlan) -> np.ndarray:
        ends = float(plan.t[0]), float(plan.clock[-1, 1])
        if ends not in kept:
            options = {"shape": model.shape, "num": num, "cond": cond, "calls": settings.teacher_calls}
            kept[ends] = tuning.pairs(plan, model.denoiser, key, **options)
        padded = plan.pad(rows=2 * max(settings.nfe), window=max(max(settings.nfe), plan.window))
        return tuning.errors(padded, model.denoiser, kept[ends])

    return errors


def best(plans: dict[str, SamplerPlan], few: Any, all_starts: Any) -> dict[str, dict[str, Any]]:
    """The best rival by each measure, among those that a few starts let through."""
    screened = {name: summary(few(plan)) for name, plan in plans.items()}
    finalists = {
        name
        for measure in ("median", "rmse")
        for name in sorted(screened, key=lambda name: screened[name][measure])[:FINALISTS]
    }
    final = {name: summary(all_starts(plans[name])) for name in sorted(finalists)}
    chosen = {measure: min(final, key=lambda name: final[name][measure]) for measure in ("median", "rmse")}
    return {measure: {"plan": name} | final[name] for measure, name in chosen.items()}


def tuned(settings: Settings, model: Any, nfe: int, rows: tuning.Rows) -> tuple[SamplerPlan, float]:
    """The plan and the seconds it took, compilation included."""
    began = time.perf_counter()
    plan = gd.samplers.tune(
        gd.samplers.MovingGrid(solver=gd.samplers.ipndm, grid=quadratic(model.process, nfe)),
        model.denoiser,
        model.process,
        jax.random.key(settings.seed),
        shape=model.shape,
        cond=jnp.arange(model.num_classes),
        free=(tuning.Nodes(), tuning.Labels(), rows),
        num=settings.pairs,
        held_out=settings.held_out,
        teacher_calls=settings.teacher_calls,
        optimizer=tuning.LevenbergMarquardt(iterations=settings.iterations),
    )
    return plan, time.perf_counter() - began


def measure(settings: Settings, model: Any, statistics: Any) -> dict[str, Any]:
    """Entries by number of calls; those of an earlier command stay, with what they were tuned with."""
    few, everything = judge(settings, model, settings.few), judge(settings, model, settings.starts)
    results = {k: v for k, v in recorded("tuned_digits").items() if int(k) not in settings.nfe}
    for nfe in settings.nfe:
        plans = rivals(model, nfe, statistics)
        entry: dict[str, Any] = {"rivals": len(plans), "untuned": best(plans, few, everything)}
        for kind, rows in KINDS.items():
            plan, seconds = tuned(settings, model, nfe, rows)
            values = summary(everything(plan))
            ratios = {f"{key}_ratio": values[key] / found[key] for key, found in entry["untuned"].items()}
            made = {"pairs": settings.pairs, "iterations": settings.iterations, "command": command()}
            notes = json.loads(plan.info.notes or "{}")
            entry[kind] = values | ratios | made | {"seconds": seconds, "notes": notes}
        results[str(nfe)] = entry
        results = {k: results[k] for k in sorted(results, key=int)}
        print(record("tuned_digits", results, dataclasses.asdict(settings)), json.dumps(entry), flush=True)
    return results


def page(settings: Settings, results: dict[str, Any]) -> str:
    text = (
        "Made by `python -m benchmarks.tuned_digits`, with `--nfe` and `--pairs` as in the table; every number is in "
        "`benchmarks/results/tuned_digits.json`, each with its command. The model is a run of "
        f"`gendyn train digits_edm`, class-conditional without guidance. Errors are root mean squares over the pixels "
        f"of one start, to the fine solution of {settings.teacher_calls} calls from that start to the plan's own end; "
        f"median, 0.9 quantile and root mean square are over {settings.starts} starts that no tuning has seen. "
        "*Untuned* is the least of each measure over every deterministic sampler on eight grids with both ends and, "
        "where the run has statistics, DPM-Solver-v3: two plans may share a row. *Tuned* starts from `ipndm` on a "
        "quadratic grid at every number of calls, by Levenberg-Marquardt; *released* does not keep order 1."
    )
    lines = ["# Tuned plans on a trained network", "", *textwrap.wrap(text, 130, break_on_hyphens=False), ""]
    lines += [
        "| calls | untuned median (by) | released | untuned rmse (by) | released | pairs | iterations | seconds |",
        "| ---: | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for nfe, entry in results.items():
        cells = [nfe]
        for key in ("median", "rmse"):
            found = entry["untuned"][key]
            cells.append(f"{found[key]:.4f} (`{found['plan']}`)")
            cells += [f"{entry[kind][key]:.4f}, {entry[kind][f'{key}_ratio']:.2f}x" for kind in KINDS]
        for name in ("pairs", "iterations", "seconds"):
            cells.append(", ".join(f"{entry[kind][name]:.0f}" for kind in KINDS))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(settings: Settings) -> None:
    model = gd.load(settings.run)
    file = statistics_file(settings.run, model, guidance=1.0)
    statistics = gd.samplers.statistics.Statistics.load(file) if file.exists() else None
    results = measure(settings, model, statistics)
    PAGE.write_text(page(settings, results))


if __name__ == "__main__":
    main(tyro.cli(Settings))
