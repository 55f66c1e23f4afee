"""gendyn train: an experiment file from anywhere; the same command again resumes."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from gendyn import distributed
from gendyn.cli.common import experiment_command
from gendyn.cli.transfer import with_winner
from gendyn.data import Source
from gendyn.training import (
    Experiment,
    Sampling,
    TrainState,
    abstract_state,
    called,
    conditions,
    fit,
    guided,
    open_run,
    plan_for,
    sample,
    starts,
)
from gendyn.training.runs import describe
from gendyn.training.step import check_source, sharding_table

PICTURES = 100
MIB = 1024**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(distributed.Cluster):
    """Options of the command; the rest are the experiment's own."""

    out: str | None = None
    """Run directory, local or gs://; runs/NAME by default. The same command again resumes."""
    override: bool = False
    """Continue a run although the config differs from the stored one."""
    dry_run: bool = False
    """Print the resolved config, parameters, mesh and memory estimate, and exit."""
    devices: int | None = None
    """Use only so many devices."""
    mesh: str = ""
    """How parameters and batch are cut over the devices, for example fsdp=4,tensor=2; the rest holds copies."""
    from_transfer: str | None = None
    """Take the hyperparameters that this `gendyn transfer` directory found best."""
    profile: str | None = None
    """Trace these steps of this call with jax's profiler into RUN/profile, for example 10:15."""
    wandb: str | None = None
    """Log to this Weights & Biases project too (needs the wandb extra)."""


def run(argv: list[str]) -> int:
    """Train the experiment that the command line names; exit status."""
    found = experiment_command(argv, "train", Options, "Train an experiment; the same command again resumes.")
    if found is None:
        return 0
    found.options.start()
    config = found.config
    if found.options.from_transfer is not None:
        config = with_winner(config, found.options.from_transfer, given=argv)
    return train(config, found.options, found.path)


def train(config: Any, options: Options, path: Any) -> int:
    """Everything is checked before a directory is made, and that before anything is compiled."""
    experiment = config.experiment()
    mesh = chosen_mesh(options)
    distributed.check_divisible(experiment.batch_size, mesh, experiment.accumulate)
    plan_for(experiment.process, experiment.sampling)
    profile = profiled(options.profile)
    if options.dry_run:
        print(dry_run(config, experiment, mesh))
        return 0
    out = options.out or f"runs/{path.stem}"
    source = distributed.together("open the data", lambda: opened(experiment))  # bad data leaves no directory behind
    described = open_run(out, config, path, mesh, override=options.override)
    outcome = fit(
        experiment,
        out,
        mesh=mesh,
        source=source,
        callbacks=[Pictures(experiment, out, mesh)],
        meta={"config": described["config"]},
        wandb=options.wandb,
        profile=profile,
    )
    if jax.process_index() > 0:
        return 0
    if not outcome.finished:
        print(f"{outcome.stopped_by}: checkpoint written at step {outcome.step} in {out}; the same command continues.")
    else:
        print(f"{out}: trained {outcome.step} steps. Next: gendyn sample {out}")
    return 0


def profiled(text: str | None) -> tuple[int, int] | None:
    """First and last step to trace."""
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise ValueError(f"--profile is the first and the last step to trace, for example 10:15; got {text!r}.")
    return int(first), int(last)


def opened(experiment: Experiment) -> Source:
    """The training data, checked."""
    source = experiment.open_source()
    check_source(experiment, source)
    return source


def chosen_mesh(options: Options) -> Mesh:
    """The mesh that --devices and --mesh describe."""
    chosen = devices(options.devices)
    return distributed.make_mesh(**distributed.parse_mesh(options.mesh), devices=chosen)


def devices(count: int | None) -> list[jax.Device] | None:
    if count is None:
        return None
    if jax.process_count() > 1:
        raise ValueError("--devices chooses among the devices of one process; leave it out, or start fewer processes.")
    if not 1 <= count <= jax.device_count():
        raise ValueError(f"--devices must lie in 1..{jax.device_count()}; got {count}.")
    return jax.devices()[:count]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Callback: a grid of samples as PNG (a scatter plot for points) in RUN/samples."""

    experiment: Experiment
    out: str
    mesh: Mesh

    def __call__(self, step: int, state: TrainState, denoiser: Any) -> None:
        sampling: Sampling = self.experiment.sampling
        num = PICTURES if len(self.experiment.shape) > 1 else 2000
        plan = plan_for(self.experiment.process, sampling)
        images = sample(
            called(guided(denoiser, sampling.guidance, self.experiment.null), plan, sampling),
            plan,
            self.experiment.shape,
            num=num,
            labels=conditions(self.experiment, num)[0],
            starts=starts(self.experiment, num, sampling.direction),
            mesh=self.mesh,
        )
        if jax.process_index() == 0:
            save_picture(f"{self.out}/samples/step_{step:07d}.png", self.experiment.decode(images))


def save_picture(path: str, decoded: np.ndarray) -> None:
    """Images as a grid with ten columns, points as a scatter plot; latents are no picture."""
    from gendyn import plots

    if decoded.ndim == 4 and decoded.shape[-1] not in (1, 3):
        return
    if decoded.ndim == 4:
        plots.save_png(path, decoded[:PICTURES], columns=10)
    else:
        plots.save_figure(path, plots.scatter(decoded))


def dry_run(config: Any, experiment: Experiment, mesh: Any) -> str:
    """Resolved config, parameter count, mesh and memory, from shapes alone."""
    state = abstract_state(experiment)
    per_device, table = experiment.batch_size // distributed.ways(mesh), sharding_table(experiment, mesh)
    batch = per_device * int(np.prod(experiment.shape)) * 4
    parameters = sum(a.size for a in jax.tree.leaves(state.params))
    parts = (state.params, state.opt_state, state.ema)
    params, optimizer, averages = (table.bytes_per_device(tree) / MIB for tree in parts)
    fields = "\n".join(f"  {k} = {v!r}" for k, v in describe(config)["config"].items())
    return (
        f"config\n{fields}\n"
        f"parameters  {parameters:,}\n"
        f"mesh        {dict(mesh.shape)} of {jax.devices()[0].device_kind}\n"
        f"batch       {experiment.batch_size} ({per_device} per device, {experiment.accumulate} micro-batches)\n"
        f"memory per device: {2 * params + optimizer + averages + batch / MIB:.1f} MiB (parameters {params:.1f}, "
        f"gradients {params:.1f}, optimiser {optimizer:.1f}, averages {averages:.1f}, batch {batch / MIB:.1f}), "
        "activations not included"
    )
