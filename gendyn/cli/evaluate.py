"""gendyn evaluate: samples beside real data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from etils import epath

from gendyn.cli.common import Drawing, open_model, parse, prepare, progress
from gendyn.data import SampleFiles, Source, sample_files
from gendyn.data.loader import take
from gendyn.files import write_json
from gendyn.metrics import Features, Report, moments, report
from gendyn.metrics.measure import flat
from gendyn.training import compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Drawing):
    """Measure samples: distances beside their floor (real test data at the same n), copying, and agreement."""

    num: int | None = None
    """How many samples; as many as there are test examples by default."""
    samples: str | None = None
    """Measure the files of samples in this folder (gendyn sample --shard), one in memory at a time, and draw none."""


def run(argv: list[str]) -> int:
    """Measure a run's samples; exit status."""
    options: Evaluate = parse(Evaluate, argv, prog="gendyn evaluate", description=Evaluate.__doc__ or "")
    if options.num is not None and options.num < 2:
        raise ValueError(f"--num must be at least 2; got {options.num}.")
    model = open_model(options)
    experiment = model.experiment
    direction = options.sampling(experiment.sampling).direction
    train, test = (_all(source) for source in compared(experiment, direction))
    if options.samples is not None:
        return _stored(options, sample_files(options.samples), *(model.decode(part["data"]) for part in (train, test)))
    num = options.num or len(test["data"])
    drawn = prepare(options, model, num).draw(num)
    result = (experiment.evaluate or _distances)(drawn.x, drawn.labels, train, test)
    print(f"{drawn}\n{result}")
    path = epath.Path(options.run) / "evaluation.json"
    write_json(path, {"sampling": drawn.how, "report": result.as_dict()})
    print(f"written to {path}")
    return 0


def _stored(options: Evaluate, files: SampleFiles, train: np.ndarray, test: np.ndarray) -> int:
    """All measures on a random subset as large as the test split, and the Frechet distance of all samples.

    Samples and real data are compared as they are written (images as bytes), as published distances are.
    """
    written = Features(name="values as written", apply=flat)
    chosen = np.sort(np.random.default_rng(options.seed).permutation(files.num)[: len(test)])
    state, kept = moments.empty(int(np.prod(train.shape[1:])), written.name), []
    with progress("measuring", files.num) as report_done:
        for samples, _ in files.read():
            first, state = state.n, moments.update(state, written(samples))
            kept.append(samples[chosen[(chosen >= first) & (chosen < state.n)] - first])
            report_done(state.n)
    everything = moments.compute(state, moments.of(train, written))
    result = report(np.concatenate(kept), None, train, test, features=written, seed=options.seed)
    print(f"{result}\nall samples: {everything}")
    path = epath.Path(options.samples or "") / "evaluation.json"
    write_json(path, {"report": result.as_dict(), "all": everything.as_dict()})
    print(f"written to {path}")
    return 0


def _all(source: Source) -> dict[str, np.ndarray]:
    """A whole source as arrays."""
    return take(source, np.arange(len(source)))


def _distances(samples: np.ndarray, labels: Any, train: dict[str, Any], test: dict[str, Any]) -> Report:
    return report(samples, labels, train["data"], test["data"])
