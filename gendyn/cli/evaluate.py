"""gendyn evaluate: samples beside real data."""

from __future__ import annotations

import dataclasses

import numpy as np
from etils import epath

from gendyn.cli.common import Drawing, parse, prepare, progress
from gendyn.data import Source
from gendyn.data.loader import take
from gendyn.files import write_json
from gendyn.metrics import report as default_report
from gendyn.training import class_labels, sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Drawing):
    """Measure samples: distances beside their floor (real test data at the same n), copying, agreement with the class."""

    num: int | None = None
    """How many samples; as many as there are test examples by default."""


def run(argv: list[str]) -> int:
    options: Evaluate = parse(Evaluate, argv, prog="gendyn evaluate", description=Evaluate.__doc__ or "")
    if options.num is not None and options.num < 2:
        raise ValueError(f"--num must be at least 2; got {options.num}.")
    model, denoiser, plan, sampling = prepare(options)
    experiment = model.experiment
    if experiment.test is None:
        raise ValueError(f"{options.run} has no test data to compare with; give its experiment a test source.")
    train, test = _all(experiment.source()), _all(experiment.test())
    num = options.num or len(test["data"])
    labels = class_labels(num, model.num_classes)
    with progress("sampling", num) as done:
        x = sample(denoiser, plan, model.shape, num=num, labels=labels, seed=options.seed, batch_size=options.batch, report=done)
    if not np.isfinite(x).all():
        raise ValueError("some samples are not finite; use more network calls, another sampler, or look at the training loss.")
    measure = experiment.evaluate or (lambda s, y, a, b: default_report(s, y, a["data"], b["data"]))
    result = measure(x, labels, train, test)
    print(f"{sampling.sampler}, {plan.nfe} network calls, guidance {sampling.guidance:g}, step {model.step}, {model.weights}")
    print(result)
    how = dataclasses.asdict(sampling) | {"nfe": plan.nfe, "seed": options.seed, "step": model.step, "weights": model.weights}
    path = epath.Path(options.run) / "evaluation.json"
    write_json(path, {"sampling": how, "report": result.as_dict()})
    print(f"written to {path}")
    return 0


def _all(source: Source) -> dict[str, np.ndarray]:
    """A whole source as arrays."""
    return take(source, np.arange(len(source)))
