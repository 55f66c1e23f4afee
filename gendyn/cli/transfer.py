"""gendyn transfer: sweep hyperparameters over sizes, and see whether the best ones stay where they are."""

import contextlib
import dataclasses
import functools
import math
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import jax
from etils import epath

from gendyn.cli.common import experiment_command, onward, part_of, progress
from gendyn.data import Source
from gendyn.files import read_json, write_atomic, write_json
from gendyn.parametrization import Transfer, grid, random_search, transfer
from gendyn.parametrization.points import check_positive
from gendyn.tables import read_table, write_table
from gendyn.training import Experiment, differences
from gendyn.training.runs import describe
from gendyn.training.trials import fixed_score, run_batches, trial


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of the command; the rest are the experiment's own, for example --rule sp for a control."""

    over: str = ""
    """The size that varies and its values, for example width=32,64,128; any field of the experiment, also depth,
    batch_size or steps. By default the experiment's own width times 1, 2 and 4."""
    sweep: str = "learning_rate=2^-12..2^-4"
    """Hyperparameters and their values: powers of two from one end to the other, or a list, for example
    "learning_rate=1e-3,2e-3 weight_decay=2^-4..2^0"; every combination is run."""
    search: int = 0
    """Draw so many points, log-uniform between the ends of each range, instead of running every combination."""
    repeats: int = 6
    """Seeds: the experiment's own and those after it."""
    base: float | None = None
    """The size at which hyperparameters are tuned; the smallest by default."""
    jobs: int = 0
    """Write a list of so many commands that share the runs out, one a line, and run none; the same command without
    --jobs then merges what they found. scripts/slurm_array.sh runs such a list."""
    part: str | None = None
    """Run only every n-th size and seed from the i-th on, as i/n: one of those commands."""
    out: str | None = None
    """Where the table, the figure and the winner go; transfer/NAME by default. The same command again resumes."""


def run(argv: list[str]) -> int:
    """Sweep the experiment that the command line names; exit status."""
    _one_device_per_core()
    summary = "Train at several sizes with many hyperparameters, and compare where the best ones lie."
    found = experiment_command(argv, "transfer", Options, summary)
    return 0 if found is None else sweep(found.config, found.options, found.path.stem, shlex.join(argv))


def sweep(config: Any, options: Options, name: str, command: str) -> int:
    """Everything is checked before a directory is made, and that before anything is compiled."""
    from gendyn import plots

    along, values = sizes_of(options.over, config)
    points = points_of(options.sweep, options.search, config)
    if "seed" in (along, *points[0]):
        raise ValueError("seeds are runs of the same size and hyperparameters; their number is --repeats.")
    if along in points[0]:
        raise ValueError(f"{along} is a size and a hyperparameter at once; leave it out of --over or of --sweep.")
    if options.repeats < 1:
        raise ValueError(f"--repeats must be at least 1; got {options.repeats}.")
    if options.jobs < 0 or (options.jobs and options.part):
        raise ValueError(f"--jobs is a number of commands, and goes without --part; got {options.jobs}.")
    part, parts = part_of(options.part)
    base = min(values) if options.base is None else next((v for v in values if v == options.base), None)
    if base is None:
        raise ValueError(f"the base is one of the sizes; got --base {options.base:g} and {along} {values}.")
    check_positive(points)
    check_batches(config, points)
    made = {value: replace(config, **{along: value}, **points[0]).experiment() for value in values}
    folder = epath.Path(options.out or f"transfer/{name}")
    shared = {k: v for k, v in describe(config)["config"].items() if k not in (along, "seed", *points[0])}
    settings = {"experiment": name, "config": shared}
    done = resumed(folder, settings)
    score = fixed_score(made[base])
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "settings.json", settings)
    seeds = range(config.seed, config.seed + options.repeats)
    if options.jobs:
        return _write_jobs(folder, options.jobs, command)
    units = [(value, seed) for value in values for seed in seeds]
    own, columns = units[part::parts], (along, *points[0], "seed", "score")
    table = folder / ("transfer" if parts == 1 else f"part-{part:05d}-of-{parts:05d}")

    @functools.cache
    def opened(value: Any) -> Source:
        return made[value].open_source()

    def data(seed: int, **size: Any) -> Iterable[Any]:
        return run_batches(replace(made[size[along]], seed=seed), opened(size[along]))

    def swept(values: list[Any], seeds: Sequence[int], base: Any, report: Callable[[int], None]) -> Transfer:
        return transfer(
            lambda **fields: trial(replace(config, **fields).experiment(), score),
            [{along: value} for value in values],
            points,
            batches=data,
            seeds=seeds,
            base=base,
            done=done,
            record=lambda rows: write_table(table, rows, columns),
            report=report,
        )

    try:
        with progress("transfer", len(own) * len(points)) as report:
            ran = 0
            for value in values:
                if mine := [seed for size, seed in own if size == value]:
                    swept([value], mine, value, onward(report, ran))
                    ran, done = ran + len(mine) * len(points), resumed(folder, settings)
    except KeyboardInterrupt:
        kept = len(read_table(table))
        print(f"interrupted: {kept} runs are kept in {folder}; the same command goes on from there.")
        return 130
    if parts > 1:
        print(f"{table}: {len(own)} of {len(units)} sizes and seeds; merge with the same command without --part.")
        return 0
    found = swept(values, seeds, base, lambda runs: None)  # all are known: this merges them
    write_table(folder / "transfer", done, columns)
    made_by = {"command": f"gendyn transfer {command}", "devices": jax.device_count()}
    write_json(folder / "transfer.json", found.summary() | settings | made_by)
    for each in found.names if found.is_grid else ():
        plots.save_figure(str(folder / f"{each}.png"), plots.transfer(found.rows, along=along, value=each))
    print(f"{found}\nwritten to {folder}; train with the winner: gendyn train {name} --from-transfer {folder}")
    return 0


def _write_jobs(folder: epath.Path, count: int, command: str) -> int:
    """A command per line, each of which runs its part of the sweep; nothing is shared between them but the folder."""
    words = [word for word in shlex.split(command) if not word.startswith("--jobs=")]
    if "--jobs" in words:
        del words[words.index("--jobs") : words.index("--jobs") + 2]
    words += [] if any(word.split("=")[0] == "--out" for word in words) else ["--out", str(folder)]
    lines = [shlex.join(["gendyn", "transfer", *words, "--part", f"{i}/{count}"]) for i in range(count)]
    path = folder / "jobs.txt"
    write_atomic(path, "\n".join(lines) + "\n")
    merge = shlex.join(["gendyn", "transfer", *words])
    print(f"{path}: {count} commands, for example sbatch --array=0-{count - 1} scripts/slurm_array.sh {path}")
    print(f"when they are done: {merge}")
    return 0


def _one_device_per_core() -> None:
    """On a CPU runs are small, and a core each is how they are fastest; too late where devices were used already."""
    if "device_count" in os.environ.get("XLA_FLAGS", ""):  # the user's own choice
        return
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def sizes_of(text: str, config: Any) -> tuple[str, list[Any]]:
    """The field that varies and its values, of --over."""
    if not text:
        if not hasattr(config, "width"):
            raise ValueError(
                f"this experiment has no width; say what varies, --over NAME=...; it has {fields(config)}."
            )
        return "width", [config.width * r for r in (1, 2, 4)]
    name, listed = assignment(text, "--over", config)
    values = sorted(listed_values(name, listed, config))
    if any(isinstance(value, str) for value in values):
        raise ValueError(f"--over takes a size that is a number; {name} is {getattr(config, name)!r}.")
    return name, values


def points_of(text: str, search: int, config: Any) -> list[dict[str, Any]]:
    """The hyperparameters to try, of --sweep and --search."""
    assigned = dict(assignment(part, "--sweep", config) for part in text.split())
    if not assigned:
        raise ValueError("--sweep names one hyperparameter or more, for example learning_rate=2^-12..2^-4.")
    if not search:
        return grid(**{name: listed_values(name, listed, config) for name, listed in assigned.items()})
    if search < 1:
        raise ValueError(f"--search is a number of points; got {search}.")
    return random_search(search, config.seed, **{name: ends(name, listed) for name, listed in assigned.items()})


def check_batches(config: Any, points: list[dict[str, Any]]) -> None:
    """Refuse hyperparameters that change the batches, which all runs of a size and seed share."""
    for name in points[0]:
        ends_of = {points[i][name] for i in (0, -1)}
        data = {_data_of(replace(config, **{name: value}).experiment()) for value in ends_of}
        if len(data) > 1:
            raise ValueError(f"{name} changes the batches of a run; vary it with --over {name}=... instead of --sweep.")


def _data_of(experiment: Experiment) -> tuple[Any, ...]:
    """What decides the batches of a run, but for its seed."""
    source = experiment.source
    parts = (source.func, source.args, tuple(source.keywords.items())) if isinstance(source, functools.partial) else ()
    return experiment.batch_size, experiment.steps, *map(repr, parts)


def assignment(text: str, option: str, config: Any) -> tuple[str, str]:
    """NAME=VALUES, of a field of the experiment."""
    name, _, listed = text.partition("=")
    name = name.replace("-", "_")
    if name not in fields(config) or not listed:
        raise ValueError(
            f"{option} takes NAME=VALUES, where NAME is a field of the experiment, one of {', '.join(fields(config))}; "
            f"got {text!r}."
        )
    return name, listed


def listed_values(name: str, listed: str, config: Any) -> list[Any]:
    """Numbers, or words where the field holds none."""
    now = getattr(config, name)
    if isinstance(now, bool) or not isinstance(now, int | float):
        return listed.split(",")
    if ".." in listed:
        low, high = (math.log2(end) for end in ends(name, listed))
        found = [2.0 ** (low + i) for i in range(round(high - low) + 1)]
    else:
        found = [number(name, each) for each in listed.split(",")]
    if isinstance(now, int):
        if any(value != int(value) for value in found):
            raise ValueError(f"{name} takes whole numbers; got {listed!r}.")
        found = [int(value) for value in found]
    if len(set(found)) < len(found):
        raise ValueError(f"{name} names a value twice: {listed!r}.")
    return found


def ends(name: str, listed: str) -> tuple[float, float]:
    """Of a range LOW..HIGH, both positive."""
    parts = listed.split("..")
    low, high = (number(name, part) for part in parts) if len(parts) == 2 else (0.0, 0.0)
    if not 0 < low < high:
        raise ValueError(
            f"a range of {name} is LOW..HIGH with 0 < LOW < HIGH, for example 2^-12..2^-4; got {listed!r}."
        )
    return low, high


def number(name: str, text: str) -> float:
    """1e-3, or a power such as 2^-8."""
    base, _, power = text.partition("^")
    try:
        return float(base) ** float(power or 1)
    except ValueError:
        raise ValueError(f"{name} takes numbers, for example 64, 1e-3 or 2^-8; got {text!r}.") from None


def fields(config: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(config)]


def resumed(folder: epath.Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier sweep with the same settings; another one's are refused rather than overwritten."""
    parts = sorted(folder.glob("part-*.parquet")) if folder.exists() else []
    rows = unique(row for path in [folder / "transfer.parquet", *parts] for row in read_table(path.with_suffix("")))
    if not rows:
        return []
    known = read_json(folder / "settings.json")
    changed = differences(*({"experiment": each["experiment"], **each["config"]} for each in (known, settings)))
    if changed:
        listing = "; ".join(line.strip() for line in changed)
        raise ValueError(f"{folder} holds a sweep with other settings ({listing}); choose another --out or remove it.")
    return rows


def unique(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in their order, each once: parts of a sweep keep what they found known."""
    return list({tuple(sorted(row.items())): row for row in rows}.values())


def with_winner(config: Any, folder: str, given: list[str]) -> Any:
    """The config with the hyperparameters that a sweep found best; says what else differs from what was tuned."""
    path = epath.Path(folder) / "transfer.json"
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no finished sweep (no transfer.json); make one with gendyn transfer.")
    found = read_json(path)
    winner = found["winner"]
    if unknown := sorted(set(winner) - set(fields(config))):
        raise ValueError(f"{folder} tuned {', '.join(unknown)} of {found['experiment']}; this experiment has none.")
    flags = {word.split("=")[0].lstrip("-").replace("-", "_") for word in given if word.startswith("--")}
    if twice := sorted(flags & set(winner)):
        raise ValueError(f"{', '.join(twice)} is given and taken from {folder}; leave out one of the two.")
    own = describe(config)["config"]
    other = [f"{k} {v!r} there, {own.get(k)!r} here" for k, v in found["config"].items() if own.get(k) != v]
    if other:
        warnings.warn(f"{folder} was tuned with other settings: {'; '.join(other)}", stacklevel=2)
    print(f"from {folder}: {', '.join(f'{name} {value:g}' for name, value in winner.items())}", file=sys.stderr)
    return replace(config, **winner)
