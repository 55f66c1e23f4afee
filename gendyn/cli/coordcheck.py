"""gendyn coordcheck: do an experiment's features move alike at every width (or depth)?"""

import dataclasses
from typing import Any

from etils import epath

from gendyn.cli.common import experiment_command, progress
from gendyn.parametrization import coordinate_check
from gendyn.tables import write_table
from gendyn.training.trials import first_batches, network_inputs, trial


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command; the rest are the experiment's own, for example --rule sp for a control."""

    over: str = ""
    """The size that varies and its values, for example width=64,128,256,512; by default the experiment's own width
    times 1, 2, 4 and 8."""
    updates: int = 5
    """Optimiser steps of every run."""
    repeats: int = 3
    """Initialisations per size."""
    out: str | None = None
    """Where the table and the figure go; coordcheck/NAME by default."""


def run(argv: list[str]) -> int:
    """Check the experiment that the command line names; exit status."""
    summary = "Train a few steps at several widths and measure how far every activation moves."
    found = experiment_command(argv, "coordcheck", Options, summary)
    return 0 if found is None else check(found.config, found.options, found.path.stem)


def check(config: Any, options: Options, name: str) -> int:
    """Exit status 1 where a slope is beyond its limit, so that scripts can rely on it."""
    from gendyn import plots

    if min(options.updates, options.repeats) < 1:
        raise ValueError(f"--updates and --repeats must be at least 1; got {options.updates} and {options.repeats}.")
    along, values = _over(options.over, config)
    sizes = [{along: value} for value in values]
    made = {value: dataclasses.replace(config, **{along: value}).experiment() for value in values}  # checked first
    first = made[values[0]]
    batches = first_batches(first, options.updates)
    with progress("coordinate check", len(sizes) * options.repeats) as report:
        found = coordinate_check(
            lambda **size: trial(made[size[along]]),
            sizes,
            batches=batches,
            probe=network_inputs(first, batches[0]),
            seeds=range(options.repeats),
            report=report,
        )
    folder = epath.Path(options.out or f"coordcheck/{name}")
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "coordcheck", list(found.rows))
    plots.save_figure(str(folder / "coordcheck.png"), plots.coordinates(found.rows, along=along))
    print(f"{found}\nwritten to {folder}: coordcheck.csv, coordcheck.parquet and coordcheck.png")
    return 0 if found.ok else 1


def _over(text: str, config: Any) -> tuple[str, list[int]]:
    """The field that varies and its values."""
    fields = {field.name for field in dataclasses.fields(config)}
    if not text:
        if "width" not in fields:
            raise ValueError(
                f"this experiment has no width; say what varies, --over NAME=...; it has {sorted(fields)}."
            )
        return "width", [config.width * r for r in (1, 2, 4, 8)]
    name, _, listed = text.partition("=")
    if name not in fields:
        raise ValueError(f"--over names a field of the experiment, one of {', '.join(sorted(fields))}; got {name!r}.")
    try:
        return name, [int(value) for value in listed.split(",")]
    except ValueError:
        raise ValueError(f"--over takes whole numbers, for example {name}=64,128,256; got {text!r}.") from None
