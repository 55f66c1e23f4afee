"""What several commands share: finding experiments, parsing, model choice and the sampling options."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import pathlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import tyro
from etils import epath
from jax.sharding import Mesh

from gendyn.processes.fields import DIFFUSIONS
from gendyn.samplers import FITTED, SamplerPlan
from gendyn.samplers import load as load_plan
from gendyn.samplers.statistics import Statistics
from gendyn.training import (
    Model,
    Sampling,
    called,
    conditions,
    guided,
    load,
    load_config_class,
    plan_for,
    sample,
    starts,
)


def experiments() -> dict[str, pathlib.Path]:
    """Experiments that come with gendyn: name -> file."""
    import experiments as package

    folder = pathlib.Path(next(iter(package.__path__)))
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


def find_experiment(name: str) -> epath.Path:
    """An experiment file by path, or one of `experiments()` by name."""
    if name.endswith(".py") or "/" in name:
        path = epath.Path(name)
        if not path.exists():
            raise FileNotFoundError(f"experiment file {name} does not exist.")
        return path
    known = experiments()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"no experiment named {name!r}.{hint} There are {', '.join(known)}, or give the path of a .py file."
        )
    return epath.Path(known[name])


def first_positional(argv: list[str], command: str, what: str) -> tuple[str | None, list[str]]:
    """Split off the leading positional argument; None when only help was asked for."""
    if argv and not argv[0].startswith("-"):
        return argv[0], argv[1:]
    if any(a in ("-h", "--help") for a in argv):
        return None, argv
    raise ValueError(f"gendyn {command} needs {what} as its first argument; `gendyn {command} --help` explains.")


def parse(function: Callable[..., Any], argv: list[str], *, prog: str, description: str) -> Any:
    """tyro with our conventions: flat names, both - and _ accepted."""
    return tyro.cli(function, args=argv, prog=prog, description=description)


Flat = tyro.conf.arg(name="")


def part_of(text: str | None) -> tuple[int, int]:
    """(i, n) of --part i/n: every n-th piece of the work from the i-th on; all of it if None."""
    if text is None:
        return 0, 1
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ValueError(f"--part is written i/n with i from 0 to n - 1, for example 0/8; got {text!r}.")
    return int(index), int(count)


@dataclasses.dataclass(frozen=True)
class Named:
    """An experiment that a command line names: its file, its config, and the command's own options."""

    path: epath.Path
    config: Any
    options: Any


def experiment_command(argv: list[str], command: str, options: type, summary: str) -> Named | None:
    """`gendyn COMMAND NAME|FILE.py`, with the options of the command and of the experiment; None if only help is asked.

    Args:
        options: a dataclass of the command's options, beside which every field of the experiment's Config is one.
        summary: a sentence for the help.
    """
    name, rest = first_positional(argv, command, "an experiment (NAME or FILE.py)")
    if name is None:
        listing = "\n".join(f"  {known}" for known in experiments())
        print(
            f"usage: gendyn {command} NAME|FILE.py [--out DIR] [options]\n\n{summary}\n"
            f"`gendyn {command} NAME --help` lists every option of it.\n\n"
            f"experiments that come with gendyn:\n{listing}"
        )
        return None
    path = find_experiment(name)
    cls = load_config_class(path)

    twice = {f.name for f in dataclasses.fields(options)} & {f.name for f in dataclasses.fields(cls)}
    if twice:
        raise ValueError(
            f"{path} has the field {sorted(twice)[0]!r}, which is an option of gendyn {command} too; rename the field."
        )

    def both(own: Any, config: Any) -> Any:
        return own, config

    both.__annotations__ = {"own": Annotated[options, Flat], "config": Annotated[cls, Flat]}
    own, config = parse(both, rest, prog=f"gendyn {command} {name}", description=cls.__doc__ or name)
    return Named(path, config, own)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawing:
    """Which model of a run is sampled, and how. What is left out is the experiment's own choice."""

    run: tyro.conf.Positional[str]
    """Run directory, local or gs://."""
    sampler: str | None = None
    """Name of a sampler, for example ddim, heun, dpmpp_2m."""
    nfe: int | None = None
    """Network calls per sample."""
    grid: str | None = None
    """Name of a time grid, for example karras, uniform_lam, uniform_t."""
    plan: str | None = None
    """A saved plan, for example from `gendyn tune`, in the place of sampler, nfe and grid."""
    guidance: float | None = None
    """Classifier-free guidance weight; 1 is the conditional model alone."""
    diffusion: str | None = None
    """Noise of an interpolant's SDE: of_gamma, constant or sine, with a number, for example of_gamma=0.5."""
    direction: Literal["forward", "backward"] | None = None
    """Of a two-sided interpolant: from base to data, or from data to base."""
    margin: float | None = None
    """Of a two-sided interpolant: how far inside both ends its clock is run; a constant diffusion needs some."""
    ema: float | None = None
    """Relative width of the averaged weights; 0 for the raw parameters; any width the run can reconstruct."""
    step: int | None = None
    """Checkpoint; the newest by default."""
    seed: int = 0
    """Sample i of a seed is the same whatever the batch size and the devices."""
    batch: int = 256
    """Samples per compiled call."""

    def sampling(self, default: Sampling) -> Sampling:
        """The experiment's sampling with this command's changes; another sampler drops the old one's options."""
        names = ("sampler", "nfe", "grid", "guidance", "direction", "margin")
        chosen = {k: v for k in names if (v := getattr(self, k)) is not None}
        if self.sampler is not None and self.sampler != default.sampler:
            chosen |= {"options": {}, "grid": self.grid}
        if self.diffusion is not None:
            chosen["options"] = chosen.get("options", default.options) | {"diffusion": diffusion(self.diffusion)}
        return dataclasses.replace(default, **chosen)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
    """Samples as states, their classes, and how they were made (JSON-able)."""

    model: Model
    x: np.ndarray
    labels: np.ndarray | None
    how: dict[str, Any]

    def __str__(self) -> str:
        return (
            f"{len(self.x)} samples, {self.how['sampler']}, {self.how['nfe']} network calls each, "
            f"guidance {self.how['guidance']:g}, step {self.how['step']}, {self.how['weights']}"
        )


SDES = ("interpolant_em", "interpolant_heun")
"""Samplers with a diffusion."""


def diffusion(text: str) -> Any:
    """A noise level from its name and number, "sine=2"; the number is 1 unless given."""
    name, _, number = text.partition("=")
    try:
        kind = DIFFUSIONS[name]
        return kind(**{dataclasses.fields(kind)[0].name: float(number or 1)})
    except (KeyError, ValueError):
        raise ValueError(
            f"--diffusion is one of {', '.join(DIFFUSIONS)} with a number, for example of_gamma=0.5; got {text!r}."
        ) from None


def from_prior(options: Any, model: Model, command: str) -> Model:
    """The model, if its samples start from a prior, as the command needs."""
    if getattr(model.experiment.objective, "start", None) is not None:
        raise ValueError(
            f"gendyn {command} needs a model that starts from noise; {options.run} is an interpolant between two data "
            "sets, whose samplers are compared with gendyn study."
        )
    return model


def open_model(options: Drawing) -> Model:
    """The run's model with the weights that were asked for."""
    return load(options.run, ema=options.ema, step=options.step)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model and what samples it: all checked, nothing compiled. `how` is JSON-able, without the number drawn."""

    model: Model
    denoiser: Any
    plan: SamplerPlan
    sampling: Sampling
    how: dict[str, Any]
    only_class: int | None
    seed: int
    batch: int

    def rows(
        self, first: int, num: int, *, mesh: Mesh | None = None, report: Callable[[int], None] = lambda done: None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(states, classes) of `num` samples from number `first` on."""
        cond, labels = conditions(self.model.experiment, num, self.only_class, first=first)
        x = sample(
            self.denoiser,
            self.plan,
            self.model.shape,
            num=num,
            labels=cond,
            starts=starts(self.model.experiment, num, self.sampling.direction, first=first),
            seed=self.seed,
            first=first,
            batch_size=self.batch,
            mesh=mesh,
            report=report,
        )
        if not np.isfinite(x).all():
            raise ValueError("some samples are not finite; use more network calls or another sampler.")
        return x, labels

    def draw(self, num: int) -> Drawn:
        """The first `num` samples, under a bar."""
        with progress("sampling", num) as report:
            x, labels = self.rows(0, num, report=report)
        return Drawn(model=self.model, x=x, labels=labels, how=self.how | {"num": num})


def prepare(options: Drawing, model: Model, num: int, only_class: int | None = None) -> Prepared:
    """Check everything that can be wrong with drawing `num` samples of a model."""
    if min(options.batch, num) < 1:
        raise ValueError(f"--batch and --num must be at least 1; got {options.batch} and {num}.")
    sampling = options.sampling(model.experiment.sampling)
    denoiser = guided(model.denoiser, sampling.guidance, model.null)
    plan = chosen_plan(options, model, sampling)
    conditions(model.experiment, 1, only_class)
    made: dict[str, Any] = {"nfe": plan.nfe, "seed": options.seed, "step": model.step, "weights": model.weights}
    if options.diffusion is not None:
        made["options"] = sampling.options | {"diffusion": options.diffusion}
    made |= {"sampler": plan.name, "grid": None, "options": {}, "plan": options.plan} if options.plan else {}
    return Prepared(
        model=model,
        denoiser=called(denoiser, plan, sampling),
        plan=plan,
        sampling=sampling,
        how=dataclasses.asdict(sampling) | made,
        only_class=only_class,
        seed=options.seed,
        batch=options.batch,
    )


def chosen_plan(options: Drawing, model: Model, sampling: Sampling) -> SamplerPlan:
    """The saved plan that the options name, checked against the model, or the sampling's."""
    if options.plan is None:
        statistics = fitted_statistics(options, model, sampling.sampler, sampling.guidance)
        return plan_for(model.process, sampling, statistics, model.shape)
    named = [f"--{k}" for k in ("sampler", "nfe", "grid") if getattr(options, k) is not None]
    if named:
        raise ValueError(f"--plan already says which sampler runs; leave out {' and '.join(named)}.")
    plan = load_plan(options.plan)
    if plan.process != model.process:
        raise ValueError(
            f"{options.plan} is a plan for {plan.process}; this run's model was trained on {model.process}."
        )
    return plan


def statistics_file(run: str, model: Model, guidance: float) -> epath.Path:
    """Where `gendyn statistics` keeps the tables of one model of a run."""
    name = f"step{model.step:07d}_{model.weights.replace(' ', '-')}_guidance{guidance:g}.npz"
    return epath.Path(run) / "statistics" / name


class Chosen(Protocol):
    """The options that choose a model of a run."""

    @property
    def run(self) -> str: ...
    @property
    def ema(self) -> float | None: ...
    @property
    def step(self) -> int | None: ...


def fitted_statistics(options: Chosen, model: Model, sampler: str, guidance: float) -> Statistics | None:
    """The run's statistics, if the sampler needs them."""
    if sampler not in FITTED:
        return None
    path = statistics_file(options.run, model, guidance)
    if not path.exists():
        chosen = {"guidance": guidance, "ema": options.ema, "step": options.step}
        flags = " ".join(f"--{k} {v}" for k, v in chosen.items() if v is not None)
        raise ValueError(
            f"{sampler} needs statistics of this very model (step {model.step}, {model.weights}, guidance "
            f"{guidance:g}); compute them with `gendyn statistics {options.run} {flags}`."
        )
    return Statistics.load(path)


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr: yields a function of the number done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def onward(report: Callable[[int], None], before: int) -> Callable[[int], None]:
    """A report of a piece of the work, where so much was done before it."""
    return lambda done: report(before + done)
