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

from gendyn.cli.common import fitted_statistics, from_prior, parse, progress
from gendyn.data.loader import take
from gendyn.metrics import report
from gendyn.oracles import EXAMPLES
from gendyn.processes import PROCESSES
from gendyn.samplers import study
from gendyn.tables import read_table, write_table
from gendyn.training import class_labels, guided, load

ORACLE = "oracle:"
REFERENCE = 2_000
"""Exact draws that samples of an oracle are compared with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Compare samplers: error to the fine solution, and quality of the samples, for every cell; resumable."""

    run: tyro.conf.Positional[str]
    """Run directory, local or gs://; or oracle:NAME, an exact mixture (two, ring, scattered)."""
    samplers: tuple[str, ...] = ("ddim", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "ipndm", "deis_tab3")
    """Names of samplers."""
    grids: tuple[str, ...] = ("karras", "uniform_lam")
    """Names of time grids."""
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

    def starts(self, num: int, seed: int) -> Any:
        shape, first = (num, *self.shape), self.process.interval[0]
        return self.process.sample_prior(jax.random.key(seed), shape, t=first)

    def quality(self, labels: Any) -> study.Quality | None:
        """Samples -> named measures, each with its floor."""
        judge = self.judge
        return None if judge is None else lambda x: measures(judge(x, labels))


def run(argv: list[str]) -> int:
    options: Study = parse(Study, argv, prog="gendyn study", description=Study.__doc__ or "")
    if options.num < 2 or not options.seeds:
        raise ValueError(f"--num must be at least 2 and --seeds name one seed or more; got {options.num}.")
    subject = _oracle(options) if options.run.startswith(ORACLE) else _trained(options)
    chosen = study.cells(options.samplers, options.grids, options.nfe, subject.extra)
    prepared = study.prepare(subject.process, chosen)
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
            ):
                rows.append({**row, "seed": seed, **settings})
                write_table(folder / "study", rows, COLUMNS)
                show(len(rows))


def _trained(options: Study) -> Subject:
    model = from_prior(options, load(options.run, ema=options.ema, step=options.step), "study")
    fitted = {s: fitted_statistics(options, model, s, options.guidance) for s in options.samplers}
    settings = {"run": options.run, "step": model.step, "weights": model.weights, "guidance": options.guidance}
    return Subject(
        process=model.process,
        D=guided(model.denoiser, options.guidance, model.num_classes),
        shape=model.shape,
        folder=f"{options.run}/study",
        settings=settings,
        labels=lambda num: class_labels(num, model.num_classes),
        extra={s: {"statistics": tables, "shape": model.shape} for s, tables in fitted.items() if tables is not None},
        judge=None if options.quality == "none" else _judge_of(options.run, model.experiment),
    )


def _judge_of(run: str, experiment: Any) -> Callable[[np.ndarray, Any], Any] | None:
    """The run's own evaluation of samples, on its data; None where it was imported without any."""
    if experiment.source is None:
        warnings.warn("the run has no data; samples are compared with the fine solution only", stacklevel=2)
        return None
    if experiment.test is None:
        raise ValueError(f"{run} has no test data to compare samples with; pass --quality none.")
    train, test = (take(source, np.arange(len(source))) for source in (experiment.open_source(), experiment.test()))
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
