"""gendyn study: samplers x grids x network calls on a run, as a table and figures."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from etils import epath

from gendyn.cli.common import fitted_statistics, parse, progress
from gendyn.files import write_atomic
from gendyn.samplers import study
from gendyn.training import class_labels, guided, load


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Error to the fine solution (and no other number) of every sampler, grid and number of calls; resumable."""

    run: tyro.conf.Positional[str]
    """Run directory, local or gs://."""
    samplers: tuple[str, ...] = ("ddim", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "ipndm", "deis_tab3")
    """Names of samplers."""
    grids: tuple[str, ...] = ("karras", "uniform_lam")
    """Names of time grids."""
    nfe: tuple[int, ...] = (5, 8, 10, 15, 20)
    """Network calls."""
    num: int = 256
    """Starts per seed."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of starts; figures show the spread over them."""
    guidance: float = 1.0
    """Classifier-free guidance weight."""
    ema: float | None = None
    """Relative width of the averaged weights."""
    step: int | None = None
    """Checkpoint; the newest by default."""
    fine_steps: int = 200
    """Heun steps of the fine solution."""
    out: str | None = None
    """Where to write study.csv and study.png; RUN/study by default. The same command again resumes."""


def run(argv: list[str]) -> int:
    options: Study = parse(Study, argv, prog="gendyn study", description=Study.__doc__ or "")
    model = load(options.run, ema=options.ema, step=options.step)
    folder = epath.Path(options.out or epath.Path(options.run) / "study")
    fitted = {s: fitted_statistics(options, model, s, options.guidance) for s in options.samplers}
    extra = {s: {"statistics": statistics} for s, statistics in fitted.items() if statistics is not None}
    chosen = study.cells(options.samplers, options.grids, options.nfe, extra)
    prepared = study.prepare(model.process, chosen)
    if not prepared.plans:
        raise ValueError(f"no cell can be built; for example: {next(iter(prepared.refused.values()))}")
    D = guided(model.denoiser, options.guidance, model.num_classes)
    settings = {"step": model.step, "weights": model.weights, "guidance": options.guidance, "num": options.num}
    rows = _resume(folder / "study.csv", settings)
    total = len(chosen) * len(options.seeds)
    with progress("study", total) as report:
        report(len(rows))
        for seed in options.seeds:
            done = {(r["sampler"], r["grid"], int(r["nfe"])) for r in rows if int(r["seed"]) == seed}
            x_T, labels = _starts(model, options.num, seed)
            for row in study.study(
                model.process,
                D,
                x_T,
                chosen,
                key=jax.random.key(seed),
                cond=labels,
                done=done,
                fine_steps=options.fine_steps,
            ):
                rows.append({**settings, "seed": seed, **row})
                write_csv(folder / "study.csv", rows)
                report(len(rows))
    _finish(folder, rows)
    return 0


def _starts(model: Any, num: int, seed: int) -> tuple[Any, Any]:
    start = model.process.interval[0]
    x_T = model.process.sample_prior(jax.random.key(seed), (num, *model.shape), t=start)
    labels = class_labels(num, model.num_classes)
    return x_T, None if labels is None else jnp.asarray(labels)


def _finish(folder: epath.Path, rows: list[dict[str, Any]]) -> None:
    from gendyn import plots

    measured = [r for r in rows if r.get("rmse") not in (None, "")]
    if measured:
        table = [
            {**r, "solver": f"{r['sampler']} {r['grid']}", "error": float(r["rmse"]), "nfe": int(r["nfe"])}
            for r in measured
        ]
        plots.save_figure(str(folder / "study.png"), plots.error_vs_nfe(table, by="solver"))
    print(ranking(measured))
    refused = sorted({f"  {r['sampler']} {r['grid']} {r['nfe']}: {r['refused']}" for r in rows if r.get("refused")})
    if refused:
        print("not possible:\n" + "\n".join(refused))
    print(f"written to {folder}/study.csv")


def ranking(rows: list[dict[str, Any]]) -> str:
    """Per number of calls, cells by rmse (mean over seeds), best first."""
    lines = []
    for nfe in sorted({int(r["nfe"]) for r in rows}):
        errors: dict[str, list[float]] = {}
        for r in rows:
            if int(r["nfe"]) == nfe:
                errors.setdefault(f"{r['sampler']}/{r['grid']}", []).append(float(r["rmse"]))
        best = sorted((float(np.mean(v)), k) for k, v in errors.items())
        lines.append(f"nfe {nfe:3d}  " + "  ".join(f"{k} {e:.4g}" for e, k in best))
    return "\n".join(lines)


COLUMNS = (
    "sampler", "grid", "nfe", "seed", "clean", "median_error", "q90_error", "rmse", "refused",
    "guidance", "step", "weights", "num",
)  # fmt: skip


def write_csv(path: epath.PathLike, rows: list[dict[str, Any]]) -> None:
    """The table, atomically."""
    import csv
    import io

    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, stream.getvalue())


def _resume(path: epath.Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier study with the same model and settings; another one's are refused rather than overwritten."""
    import csv

    if not path.exists():
        return []
    rows = list(csv.DictReader(path.read_text().splitlines()))
    other = [k for k, v in settings.items() if any(row.get(k) != str(v) for row in rows)]
    if other:
        raise ValueError(f"{path} holds a study with another {', '.join(other)}; choose another --out or remove it.")
    return [{k: v for k, v in row.items() if v != ""} for row in rows]
