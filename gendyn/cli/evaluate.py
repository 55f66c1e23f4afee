"""gendyn evaluate: samples beside real data."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from etils import epath

from gendyn.cli.common import Drawing, draw, open_model, parse
from gendyn.data import Source
from gendyn.data.loader import take
from gendyn.files import write_json
from gendyn.metrics import Report, report
from gendyn.training import compared


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Drawing):
    """Measure samples: distances beside their floor (real test data at the same n), copying, and agreement."""

    num: int | None = None
    """How many samples; as many as there are test examples by default."""


def run(argv: list[str]) -> int:
    options: Evaluate = parse(Evaluate, argv, prog="gendyn evaluate", description=Evaluate.__doc__ or "")
    if options.num is not None and options.num < 2:
        raise ValueError(f"--num must be at least 2; got {options.num}.")
    model = open_model(options)
    experiment = model.experiment
    direction = options.sampling(experiment.sampling).direction
    train, test = (_all(source) for source in compared(experiment, direction))
    drawn = draw(options, model, options.num or len(test["data"]))
    result = (experiment.evaluate or _distances)(drawn.x, drawn.labels, train, test)
    print(f"{drawn}\n{result}")
    path = epath.Path(options.run) / "evaluation.json"
    write_json(path, {"sampling": drawn.how, "report": result.as_dict()})
    print(f"written to {path}")
    return 0


def _all(source: Source) -> dict[str, np.ndarray]:
    """A whole source as arrays."""
    return take(source, np.arange(len(source)))


def _distances(samples: np.ndarray, labels: Any, train: dict[str, Any], test: dict[str, Any]) -> Report:
    return report(samples, labels, train["data"], test["data"])
