"""gendyn study: samplers x grids x network calls on a run or an exact model, as a table and figures."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from etils import epath

from gendyn.cli.common import SDES, diffusion, fitted_statistics, parse, progress
from gendyn.data.loader import take
from gendyn.metrics import report
from gendyn.oracles import EXAMPLES
from gendyn.processes import PROCESSES, Interpolant
from gendyn.processes.fields import Direction
from gendyn.samplers import FLOW_SAMPLERS, study
from gendyn.tables import read_table, write_table
from gendyn.training import Sampling, class_labels, clock_options, compared, guided, load, starts

ORACLE = "oracle:"
USUAL = ("ddim", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "ipndm", "deis_tab3")
"""Samplers of denoisers that are studied where none are named."""
REFERENCE = 2_000
"""Exact draws that samples of an oracle are compared with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Compare samplers: error to the fine solution, and quality of the samples, for every cell; resumable."""

    run: tyro.conf.Positional[str]
    """Run directory, local or gs://; or oracle:NAME, an exact mixture (two, ring, scattered)."""
    samplers: tuple[str, ...] = ()
    """Names of samplers; by default ddim, heun, dpmpp_2m, dpmpp_3m, unipc, ipndm and deis_tab3, and of a two-sided
    interpolant all that it has."""
    grids: tuple[str, ...] = ()
    """Names of time grids; by default karras and uniform_lam, and of a two-sided interpolant its clock."""
    nfe: tuple[int, ...] = (5, 8, 10, 15, 20)
    """Network calls."""
    quality: Literal["distances", "none"] = "distances"
    """Measures of the samples beside their floor: Frechet, sliced W2, MMD, copying and, of a run that has a judge,
    agreement with the class. They need the run's data."""
    num: int = 256
    """Starts per seed."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of starts; figures show the spread over them."""
    process: str = "edm"
    """Process of an oracle."""
    guidance: float = 1.0
    """Classifier-free guidance weight."""
    diffusion: str | None = None
    """Noise of an interpolant's SDEs: of_gamma, constant or sine, with a number, for example of_gamma=0.5."""
    direction: Direction = "forward"
    """Of a two-sided interpolant: from base to data, or from data to base."""
    margin: float = 0.0
    """Of a two-sided interpolant: how far inside both ends its clock is run."""
    ema: float | None = None
    """Relative width of the averaged weights."""
    step: int | None = None
    """Checkpoint; the newest by default."""
    fine_steps: int = 200
    """Heun steps of the fine solution."""
    out: str | None = None
    """Where to write; RUN/study by default, studies/NAME for an oracle. The same command again resumes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What is studied: a model, its starts, how its samples are judged, and what rows say of it."""

    process: Any
    D: Any
    shape: tuple[int, ...]
    folder: str
    settings: dict[str, Any]
    labels: Callable[[int], Any] = lambda num: None
    extra: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    judge: Callable[[np.ndarray, Any], Any] | None = None
    ends: dict[str, Any] = dataclasses.field(default_factory=dict)
    begin: Callable[[int], Any] | None = None

    def starts(self, num: int, seed: int) -> Any:
        """Draws of the prior; points of a two-sided run, each seed the next ones of its test source."""
        if self.begin is not None:
            return jnp.asarray(self.begin((seed + 1) * num)[seed * num :])
        shape, first = (num, *self.shape), self.process.interval[0]
        return self.process.sample_prior(jax.random.key(seed), shape, t=first)

    def quality(self, labels: Any) -> study.Quality | None:
        """Samples -> named measures, each with its floor."""
        judge = self.judge
        return None if judge is None else lambda x: measures(judge(x, labels))


def run(argv: list[str]) -> int:
    """Compare samplers on a run or an exact model; exit status."""
    options: Study = parse(Study, argv, prog="gendyn study", description=Study.__doc__ or "")
    if options.num < 2 or not options.seeds:
        raise ValueError(f"--num must be at least 2 and --seeds name one seed or more; got {options.num}.")
    subject = _oracle(options) if options.run.startswith(ORACLE) else _trained(options)
    sided = isinstance(subject.process, Interpolant)
    names = options.samplers or (tuple(FLOW_SAMPLERS) if sided else USUAL)
    grids = options.grids or (("clock",) if sided else ("karras", "uniform_lam"))
    chosen = study.cells(names, grids, options.nfe, subject.extra)
    prepared = study.prepare(subject.process, chosen, **subject.ends)
    if not prepared.plans:
        raise ValueError(f"no cell can be built; for example: {next(iter(prepared.refused.values()))}")
    folder = epath.Path(options.out or subject.folder)
    settings = subject.settings | {"num": options.num, "quality": options.quality}
    rows = _resume(folder / "study", settings)
    try:
        _fill(rows, options, subject, chosen, folder, settings)
    except KeyboardInterrupt:
        print(f"interrupted: {len(rows)} rows are kept in {folder}/study.csv; the same command goes on from there.")
        return 130
    _finish(folder, rows)
    return 0


def _fill(rows: list[Any], options: Study, subject: Subject, chosen: Any, folder: epath.Path, settings: Any) -> None:
    """Every cell that has no row yet, each written as soon as it is measured."""
    with progress("study", len(chosen) * len(options.seeds)) as show:
        show(len(rows))
        for seed in options.seeds:
            labels = subject.labels(options.num)
            for row in study.study(
                subject.process,
                subject.D,
                subject.starts(options.num, seed),
                chosen,
                key=jax.random.key(seed),
                cond=None if labels is None else jnp.asarray(labels),
                quality=subject.quality(labels),
                done={(r["sampler"], r["grid"], r["nfe"]) for r in rows if r["seed"] == seed},
                fine_steps=options.fine_steps,
                **subject.ends,
            ):
                rows.append({**row, "seed": seed, **settings})
                write_table(folder / "study", rows, COLUMNS)
                show(len(rows))


def _trained(options: Study) -> Subject:
    model = load(options.run, ema=options.ema, step=options.step)
    fitted = {s: fitted_statistics(options, model, s, options.guidance) for s in options.samplers}
    extra = {s: {"statistics": tables, "shape": model.shape} for s, tables in fitted.items() if tables is not None}
    if options.diffusion is not None:
        extra |= {s: {"diffusion": diffusion(options.diffusion)} for s in SDES}
    settings = {"run": options.run, "step": model.step, "weights": model.weights, "guidance": options.guidance}
    sampling = Sampling(direction=options.direction, margin=options.margin)
    ends = clock_options(model.process, sampling).get("grid_options", {})
    begin = None
    if options.diffusion is not None and not ends:
        raise ValueError(f"--diffusion belongs to the SDEs of two-sided interpolants; {options.run} is none.")
    if ends:
        settings |= {"diffusion": options.diffusion or "of_gamma", "direction": options.direction, **ends}
        begin = lambda num: starts(model.experiment, num, options.direction)
    return Subject(
        process=model.process,
        D=guided(model.denoiser, options.guidance, model.num_classes),
        shape=model.shape,
        folder=f"{options.run}/study",
        settings=settings,
        labels=lambda num: class_labels(num, model.num_classes),
        extra=extra,
        judge=None if options.quality == "none" else _judge_of(options.run, model.experiment, options.direction),
        ends=ends,
        begin=begin,
    )


def _judge_of(run: str, experiment: Any, direction: Direction) -> Callable[[np.ndarray, Any], Any] | None:
    """The run's own evaluation of samples, on its data; None where it was imported without any."""
    if experiment.source is None:
        warnings.warn("the run has no data; samples are compared with the fine solution only", stacklevel=2)
        return None
    if experiment.test is None:
        raise ValueError(f"{run} has no test data to compare samples with; pass --quality none.")
    train, test = (take(source, np.arange(len(source))) for source in compared(experiment, direction))
    if (evaluate := experiment.evaluate) is not None:
        return lambda x, labels: evaluate(x, labels, train, test)
    return lambda x, labels: report(x, None, train["data"], test["data"])


def _oracle(options: Study) -> Subject:
    name = options.run.removeprefix(ORACLE)
    mixture, process = _named("oracle", name, EXAMPLES), _named("process", options.process, PROCESSES)
    real, test = (np.asarray(mixture.sample(jax.random.key(-1 - i), n)) for i, n in enumerate((REFERENCE, options.num)))
    return Subject(
        process=process,
        D=mixture.denoiser(process),
        shape=(mixture.dim,),
        folder=f"studies/{name}_{options.process}",
        settings={"run": options.run, "process": options.process},
        judge=None if options.quality == "none" else lambda x, labels: report(x, None, real, test),
    )


def _named(what: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; choose one of {', '.join(known)}.")
    return known[name]()


def measures(result: Any) -> dict[str, float]:
    """A report as columns: each distance and its floor, the nearest-training ratio, agreement where it was judged."""
    columns = {row.measure.name: row.measure.value for row in result.rows}
    columns |= {f"{row.measure.name}_floor": row.floor.value for row in result.rows}
    columns["nearest_training_ratio"] = result.memorization.ratio
    if result.agreement is not None:
        columns["agreement"] = result.agreement.value
    return {name: float(value) for name, value in columns.items() if value is not None and np.isfinite(value)}


COLUMNS = ("sampler", "grid", "nfe", "seed", "clean", "median_error", "q90_error", "rmse", "refused")
"""First columns of the table; measures of quality and settings follow."""


def _resume(path: epath.Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier study with the same model and settings; another one's are refused rather than overwritten."""
    rows = read_table(path)
    other = [name for name, value in settings.items() if any(row.get(name) != value for row in rows)]
    if other:
        raise ValueError(
            f"{path}.csv holds a study with another {', '.join(other)}; choose another --out or remove it."
        )
    return rows


def _finish(folder: epath.Path, rows: list[dict[str, Any]]) -> None:
    from gendyn import plots

    named = [{**row, "solver": f"{row['sampler']} {row['grid']}"} for row in rows if "refused" not in row]
    measured = [row for row in named if "rmse" in row]
    figures = {"study": (measured, "median_error"), "frechet": (named, "frechet"), "agreement": (named, "agreement")}
    for name, (table, column) in figures.items():
        table = [row for row in table if column in row]
        if table:
            plots.save_figure(str(folder / f"{name}.png"), plots.error_vs_nfe(table, by="solver", error=column))
    if measured:
        plots.save_figure(str(folder / "ranking.png"), plots.ranking(measured, by="solver", value="median_error"))
        print(ranking(measured))
    refused = sorted({f"  {r['sampler']} {r['grid']} {r['nfe']}: {r['refused']}" for r in rows if "refused" in r})
    if refused:
        print("not possible:\n" + "\n".join(refused))
    print(f"written to {folder}: study.csv, study.parquet and figures")


def ranking(rows: list[dict[str, Any]], value: str = "median_error") -> str:
    """Per number of calls, solvers by their mean over seeds, best first."""
    lines = []
    for nfe in sorted({row["nfe"] for row in rows}):
        errors: dict[str, list[float]] = {}
        for row in rows:
            if row["nfe"] == nfe:
                errors.setdefault(row["solver"], []).append(row[value])
        best = sorted((float(np.mean(v)), k) for k, v in errors.items())
        lines.append(f"nfe {nfe:3d}  " + "  ".join(f"{k} {e:.4g}" for e, k in best))
    return "\n".join(lines)
