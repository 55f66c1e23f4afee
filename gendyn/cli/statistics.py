"""gendyn statistics: what DPM-Solver-v3 needs to know about a run's model."""

from __future__ import annotations

import dataclasses
import time
import warnings
from typing import Any

import numpy as np
import tyro

from gendyn import samplers
from gendyn.cli.common import from_prior, parse, progress, statistics_file
from gendyn.data.loader import Batches
from gendyn.samplers.statistics import (
    Moments,
    Origin,
    Statistics,
    counted,
    moments,
    relative_difference,
    statistics_of,
)
from gendyn.training import Model, class_labels, guided, load, plan_for, sample

CHECKED = (5, 10)  # network calls at which --check samples
FINE = 200  # network calls of the solution that it takes for exact
ENOUGH = 0.25  # of the solver's own error: more than this from the tables' noise is too much
GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """Measure a run's model on its training data; `gendyn sample RUN --sampler dpm_solver_v3` then finds the tables.

    A run without data, as an imported one may be, is measured on samples of its own.
    """

    run: tyro.conf.Positional[str]
    """Run directory, local or gs://."""
    num_samples: int = 1024
    """Pairs of data and noise. Errors fall with the square root; see --check."""
    times: int = 120
    """Cells of the tables in lam = log(alpha/sigma)."""
    probes: int = 1
    """Random signs per pair for the Jacobian's diagonal."""
    guidance: float | None = None
    """Classifier-free guidance weight of the sampler that will use the tables; the experiment's own by default."""
    ema: float | None = None
    """Relative width of the averaged weights; 0 for the raw parameters; any width the run can reconstruct."""
    step: int | None = None
    """Checkpoint; the newest by default."""
    seed: int = 0
    """Of the choice of data, of noise and of probes."""
    batch: int | None = None
    """Samples per compiled call; 32 on a CPU and 256 elsewhere by default."""
    memory: float | None = None
    """GiB that one call may use; the batch is halved until it fits."""
    check: bool = False
    """Sample with the tables of either half of the pairs, and warn if their noise shows."""


def run(argv: list[str]) -> int:
    """Estimate or check a model's statistics; exit status."""
    options: Measure = parse(Measure, argv, prog="gendyn statistics", description=Measure.__doc__ or "")
    if options.num_samples < 4 or options.times < 2:
        raise ValueError(
            f"--num-samples must be at least 4 and --times at least 2; got {options.num_samples} and {options.times}."
        )
    model = from_prior(options, load(options.run, ema=options.ema, step=options.step), "statistics")
    guidance = model.experiment.sampling.guidance if options.guidance is None else options.guidance
    denoiser = guided(model.denoiser, guidance, model.num_classes)
    started = time.perf_counter()
    halves, lam = _halves(options, model, denoiser)
    whole = [a.merge(b) for a, b in zip(*halves, strict=True)]
    named = Origin(model=options.run, step=model.step, weights=model.weights, guidance=guidance)
    origin = counted(named, whole, options.probes)
    tables, *apart = (statistics_of(nodes, lam, model.process, origin) for nodes in (whole, *halves))
    path = statistics_file(options.run, model, guidance)
    tables.save(path)
    noise = ", ".join(f"{name} {value:.1%}" for name, value in relative_difference(*apart).items())
    print(
        f"{origin.num_samples} samples at {len(lam)} nodes, guidance {guidance:g}, step {model.step}, {model.weights}: "
        f"{origin.network_calls:,} network calls, {origin.tangents:,} directional derivatives, "
        f"{time.perf_counter() - started:.0f} s\nhalf against half: {noise}\nwritten to {path}"
    )
    if options.check:
        _check(model, denoiser, tables, apart, options.seed)
    return 0


def _halves(options: Measure, model: Model, denoiser: Any) -> tuple[list[list[Moments]], np.ndarray]:
    """Moments of the first and of the second half of the pairs, and the nodes."""
    import jax

    num = options.num_samples
    chosen = _pairs(options, model, denoiser)
    lam = samplers.grids.uniform_lam(model.process, options.times).lam
    half, halves = num // 2, []
    with progress("statistics", num * len(lam)) as report:
        for rows in (slice(0, half), slice(half, num)):
            before = rows.start * len(lam)
            part = moments(
                model.process,
                denoiser,
                chosen["data"][rows],
                jax.random.key(options.seed),
                lam=lam,
                probes=options.probes,
                cond=None if model.num_classes is None else chosen["label"][rows],
                batch=options.batch,
                memory=None if options.memory is None else int(options.memory * GIB),
                report=lambda done, before=before: report(before + done),  # type: ignore[misc]
                first=rows.start,
            )
            halves.append(part)
    return halves, lam


def _pairs(options: Measure, model: Model, denoiser: Any) -> dict[str, Any]:
    """Data and labels to measure on: the training data, or the model's own samples where there is none."""
    num, experiment = options.num_samples, model.experiment
    if experiment.source is not None:
        source = experiment.open_source()
        return Batches(source=source, batch_size=num, seed=options.seed, transforms=experiment.transforms)[0]
    labels = class_labels(num, model.num_classes)
    plan = plan_for(model.process, experiment.sampling)
    batch = options.batch or 256
    warnings.warn(f"the run has no data; measured on {num} samples of its own, {plan.nfe} calls each", stacklevel=2)
    x = sample(denoiser, plan, model.shape, num=num, labels=labels, seed=options.seed, batch_size=batch)
    return {"data": x} if labels is None else {"data": x, "label": labels}


def _check(model: Model, denoiser: Any, tables: Statistics, apart: list[Statistics], seed: int) -> None:
    """How far the tables' noise moves samples, beside the solver's own error."""
    num = 64
    labels = class_labels(num, model.num_classes)
    draw = lambda plan: sample(denoiser, plan, model.shape, num=num, labels=labels, seed=seed)
    fine = draw(samplers.plan("dpmpp_3m", model.process, FINE, "uniform_lam", grid_options={"final_zero": False}))
    shares: list[float] = []
    for nfe in CHECKED:
        plans = [samplers.plan("dpm_solver_v3", model.process, nfe, statistics=s) for s in (tables, *apart)]
        ours, first, second = (draw(plan.pad(rows=max(CHECKED))) for plan in plans)
        # Halves are noisier than the whole by sqrt 2 each, so their difference is twice the noise of the whole.
        noise, error = _distance(first, second) / 2, _distance(ours, fine)
        print(f"{nfe} network calls: noise of the tables moves a sample by {noise:.4f}, the solver errs by {error:.4f}")
        shares.append(noise / max(error, 1e-30))
    if max(shares) > ENOUGH:
        samples = tables.origin.num_samples if tables.origin else 0
        needed = int(np.ceil(samples * (max(shares) / ENOUGH) ** 2 / 256)) * 256
        warnings.warn(
            f"{samples} samples are too few: the noise of the tables is {max(shares):.0%} of the solver's error; about "
            f"{needed} would bring it to {ENOUGH:.0%} (--num-samples {needed}).",
            stacklevel=2,
        )


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Median over samples of the root mean square over elements: a few starts between two modes do not count."""
    return float(np.median(np.sqrt(np.mean((a - b).reshape(len(a), -1) ** 2, axis=1))))
