"""Which sampler family needs the fewest network calls? Every deterministic sampler, one grid, one end, three models.

Run:      python -m benchmarks.sampler_families --run runs/digits      (without --run: the two mixtures alone)
Takes:    about four minutes on two CPU cores.
Writes:   benchmarks/results/sampler_families.json and docs/explanation/sampler_errors.md.

What was fixed before looking: the models, the log-SNR grid over each process's sampling interval, ending above zero,
the numbers of calls and every recipe's own options. DPM-Solver-v3 has statistics of the model itself and is run twice:
with gendyn's defaults, and with the settings published for its EDM CIFAR-10 checkpoint, which drop the corrector from 8
calls on; the first was added after the second had been seen. Errors are per start against an adaptive solve of the same
flow between the same times (tolerance 1e-6).
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import tyro

import gendyn as gd
from benchmarks import common
from gendyn.samplers import SAMPLERS
from gendyn.samplers.dpm_solver_v3 import preset

NFES = (4, 5, 6, 8, 10, 12, 15, 20)
PUBLISHED = "dpm_solver_v3, EDM CIFAR-10 settings"
PAGE = pathlib.Path(__file__).parent.parent / "docs" / "explanation" / "sampler_errors.md"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    run: str | None = None
    """A trained run to study besides the mixtures."""
    starts: int = 1024
    samples: int = 1024
    """Samples for the statistics of DPM-Solver-v3."""
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    process: Any
    D: Any
    shape: tuple[int, ...]
    data: np.ndarray
    cond: Any = None
    data_cond: Any = None


def mixtures(settings: Settings) -> dict[str, Target]:
    """A ring of unequal components in two dimensions on VP, and scattered diagonal ones in sixteen on EDM."""
    pairs = {
        "ring, d = 2, VP": (gd.oracles.EXAMPLES["ring"](), gd.processes.VPLinear()),
        "scattered, d = 16, EDM": (gd.oracles.EXAMPLES["scattered"](), gd.processes.EDM()),
    }
    return {
        name: Target(
            process=process,
            D=mixture.denoiser(process),
            shape=(mixture.dim,),
            data=np.asarray(mixture.sample(jax.random.key(1), settings.samples)),
        )
        for name, (mixture, process) in pairs.items()
    }


def trained(settings: Settings) -> dict[str, Target]:
    """The run's model, conditional and unguided, with statistics from its training data."""
    if settings.run is None:
        return {}
    from gendyn.data.loader import take

    model = gd.load(settings.run)
    source = model.experiment.source()
    real = take(source, np.arange(min(settings.samples, len(source))))
    labels = gd.training.class_labels(settings.starts, model.num_classes)
    name = f"trained run, {' x '.join(map(str, model.shape))}, {type(model.process).__name__}"
    target = Target(
        process=model.process,
        D=model.denoiser,
        shape=model.shape,
        data=real["data"],
        cond=labels,
        data_cond=real["label"] if model.num_classes else None,
    )
    return {name: target}


def errors(target: Target, settings: Settings) -> dict[str, dict[int, dict[str, float]]]:
    """Sampler -> calls -> median, 0.9 quantile and root mean square of the per-start error."""
    process = target.process
    start, end = process.interval
    x_T = process.sample_prior(jax.random.key(settings.seed), (settings.starts, *target.shape), t=start)
    exact = np.asarray(gd.samplers.odeint(process, target.D, x_T, start, end, rtol=1e-6, atol=1e-6, cond=target.cond).x)
    statistics = gd.samplers.statistics.estimate(
        process, target.D, target.data, jax.random.key(2), num_times=120, cond=target.data_cond
    )
    table: dict[str, dict[int, dict[str, float]]] = {}
    for label in [*SAMPLERS, "dpm_solver_v3", PUBLISHED]:
        name = label.split(",")[0]
        for nfe in NFES:
            options = {"statistics": statistics} if name == "dpm_solver_v3" else {}
            options |= preset("edm_cifar10", nfe) if label == PUBLISHED else {}
            try:
                plan = gd.plan(name, process, nfe, "uniform_lam", grid_options={"final_zero": False}, **options)
            except ValueError:
                continue  # this sampler cannot make so many calls
            if plan.draws:
                break
            x = np.asarray(gd.samplers.run(plan, target.D, x_T, cond=target.cond))
            each = np.sqrt(((x - exact) ** 2).reshape(len(x), -1).mean(1))
            table.setdefault(label, {})[nfe] = {
                "median": float(np.median(each)),
                "q90": float(np.quantile(each, 0.9)),
                "rmse": float(np.sqrt((each**2).mean())),
            }
    return table


def page(results: dict[str, Any], settings: Settings) -> str:
    """The documentation page: one table of median errors per model, best first at ten calls."""
    lines = [
        "# Sampler errors, measured",
        "",
        f"Made by `{common.command()}`; numbers with 0.9 quantiles and root mean squares are in",
        "`benchmarks/results/sampler_families.json`. Each entry is the median over",
        f"{settings.starts} starts of the root-mean-square error per coordinate against an adaptive solve of the",
        "same flow between the same times, on one log-SNR grid that ends above zero. Everything was fixed before",
        "looking. No sampler has a grid of its own here: a family that is usually run on another may do better there.",
        f"DPM-Solver-v3 has statistics of the model itself ({settings.samples} samples) and stands here twice:",
        "with gendyn's defaults, and with the settings published for its EDM CIFAR-10 checkpoint, which drop the",
        "corrector from 8 calls on. Only the second was fixed before looking.",
        "A dash: the sampler cannot make that number of calls. Rows are sorted by their error at ten calls.",
    ]
    for name, table in results.items():
        worst = float("inf")
        order = sorted(table, key=lambda s: table[s].get(10, table[s].get(12, {"median": worst}))["median"])
        lines += ["", f"## {name[0].upper()}{name[1:]}", "", f"| sampler | {' | '.join(map(str, NFES))} |"]
        lines += ["| --- |" + " ---: |" * len(NFES)]
        for sampler in order:
            cells = (f"{table[sampler][n]['median']:.4f}" if n in table[sampler] else "-" for n in NFES)
            lines.append(f"| `{sampler}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(settings: Settings) -> None:
    targets = mixtures(settings) | trained(settings)
    results = {}
    for name, target in targets.items():
        results[name] = errors(target, settings)
        print(f"{name}: done", flush=True)
    print(common.record("sampler_families", results, dataclasses.asdict(settings)))
    PAGE.write_text(page(results, settings))


if __name__ == "__main__":
    main(tyro.cli(Settings))
