"""Which way a run between two data sets is sampled, and what its samples are compared with.

forward    from the base of the test examples; compared with the data of the source and of the test source
backward   from the data of the test examples; compared with the bases of both
"""

from __future__ import annotations

from typing import Any

from gendyn.data import Paired, Source
from gendyn.processes import Interpolant
from gendyn.processes.fields import Direction
from gendyn.training.experiment import Experiment, Sampling


def clock_options(process: Any, sampling: Sampling) -> dict[str, Any]:
    """A sampling's direction and margin as options of `gendyn.plan`; none for a process with a prior."""
    if not isinstance(process, Interpolant):
        if sampling.direction != "forward" or sampling.margin:
            raise ValueError(f"direction and margin belong to two-sided interpolants; this model's path is {process}.")
        return {}
    if sampling.direction not in ("forward", "backward"):
        raise ValueError(f'direction is "forward" (base to data) or "backward"; got {sampling.direction!r}.')
    if not 0 <= sampling.margin < 0.5:
        raise ValueError(f"margin must lie in [0, 0.5); got {sampling.margin:g}.")
    ends = process.t_base + sampling.margin, process.t_data - sampling.margin
    start, end = ends if sampling.direction == "forward" else ends[::-1]
    return {"grid_options": {"t_start": start, "t_end": end, **sampling.options.get("grid_options", {})}}


def compared(experiment: Experiment, direction: Direction = "forward") -> tuple[Source, Source]:
    """The (training, test) sources whose "data" samples are compared with."""
    if experiment.test is None:
        raise ValueError("this run has no test data to compare with; give its experiment a test source.")
    train, test = experiment.open_source(), experiment.test()
    if direction == "forward":
        return train, test
    if not (isinstance(train, Paired) and isinstance(test, Paired)):
        raise ValueError("samples of the base are compared with bases; make source and test with gendyn.data.paired.")
    return train.base, test.base
