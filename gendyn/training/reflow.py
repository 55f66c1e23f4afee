"""Reflow: pairs of noise and sample from a model, the next model trained on them, and again.

    RUN --pairs0--> round1 --pairs1--> round2 ...            each round starts from the weights before it
                       +----pairs1--> round1_distilled1      k-step distillation, from the last round

Liu et al. 2023, "Flow Straight and Fast" (arXiv 2209.03003). In DIR:

    reflow.json       what was asked, of which model; another question is refused
    round0.json       straightness of RUN's own flow
    pairsK/*.npz      noise "base" and sample "data" (and "label") of round K's flow, whole files
    roundK/           an ordinary run directory; its config.json says what the round changed; straightness.json

Pair i is a function of (seed, round, i), a shard is written whole or not at all, and training resumes exactly, so the
same call goes on wherever it was stopped and ends in the same bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import numpy as np
from etils import epath
from jax.sharding import Mesh

from gendyn import samplers
from gendyn.files import read_json, write_json
from gendyn.samplers import straightness
from gendyn.training.checkpoint import Checkpoints
from gendyn.training.experiment import Experiment
from gendyn.training.loop import Callback, Outcome, fit
from gendyn.training.rounds import Round
from gendyn.training.runs import Model, describe, differences, load, open_run
from gendyn.training.sampling import guided
from gendyn.training.step import check_parameters
from gendyn.training.stored_pairs import seed_of, store, stored
from gendyn.training.straightening import Row, distilled_row, fine_paths, flow_row

Progress: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(what, total) -> a context that gives a function of the number done."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reflow:
    """What is asked of `reflow`.

    Attributes:
        rounds: how often; the model after one round is called 2-rectified flow.
        pairs: number of pairs per round, reused for many epochs: too few are learned by heart (the authors advise at
            least a million for CIFAR-10).
        distill: 0, or k to distil the last round into a k-step sampler.
        sampler, nfe, grid: the deterministic solver that makes the pairs, from exactly pure noise.
        guidance: classifier-free guidance of the first round's pairs; the rounds then learn the guided flow.
        ema: relative width of the averaged weights that make pairs and start the next round; None for the first one.
        noise_levels: density of times in the rounds, by name ("u_shaped" for reflow); None for the experiment's own.
        measured: fresh starts on which every flow is measured.
        seed: of the pairs. batch: pairs per compiled call.
    """

    rounds: int = 1
    pairs: int = 50_000
    distill: int = 0
    sampler: str = "unipc_2"
    nfe: int = 100
    grid: str = "uniform_t"
    guidance: float = 1.0
    ema: float | None = None
    noise_levels: str | None = None
    measured: int = 512
    seed: int = 0
    batch: int = 256

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.distill < 0 or not self.rounds + self.distill:
            raise ValueError(
                f"rounds must be at least 1, or 0 with distill >= 1; got {self.rounds} and {self.distill}."
            )
        for name in ("batch", "measured"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")


@contextlib.contextmanager
def silent(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """No progress."""
    yield lambda done: None


def reflow(
    run: epath.PathLike,
    out: epath.PathLike,
    asked: Reflow | None = None,
    *,
    config: Any = None,
    mesh: Mesh | None = None,
    progress: Progress = silent,
    callbacks: Callable[[Experiment, str], Sequence[Callback]] = lambda experiment, folder: (),
    report: Callable[[Row], None] = lambda row: None,
) -> tuple[list[Row], Outcome | None]:
    """Rectify a run's flow, or go on doing so; see the head of this module for what is written.

    More rounds, or a distillation, may be added later by asking for them: what exists is kept.

    Args:
        run: directory of the first model; it is not written into.
        out: directory of the rounds.
        asked: how; `Reflow()` by default.
        config: the run's config with other values (steps, learning rate, ...) for the rounds' training.
        mesh: devices; all by default.
        progress: shown while pairs are made; training shows its own.
        callbacks: made for each round's training, from its experiment and directory.
        report: called with every finished row.

    Returns:
        (rows, last): a row per model (straightness, transport costs, one-step error), and the outcome of the training
        that was interrupted, None if all was done.

    Raises:
        ValueError: a process that does not start at pure noise, pairs fewer than a batch, a stochastic sampler, or an
            `out` that holds something else.
    """
    asked = Reflow() if asked is None else asked
    model = load(run, ema=asked.ema)
    config = model.config if config is None else config
    check(model, config.experiment(), asked)
    work = _Work(run=run, out=epath.Path(out), asked=asked, config=config, mesh=mesh, progress=progress)
    work.open(model)
    rows: list[Row] = []
    for stage in stages(asked):
        if stage.name != "round0":
            outcome = work.train(stage, model, callbacks)
            if outcome is not None and not outcome.finished:
                return rows, outcome
        trained = model if stage.name == "round0" else load(work.out / stage.name, ema=asked.ema)
        rows.append(work.measure(stage, trained, model, rows))
        report(rows[-1])
        model = trained
    return rows, None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One model: the first (number 0), a round, or a distillation of round `number`."""

    number: int
    nodes: int | None = None

    @property
    def name(self) -> str:
        return f"round{self.number}" + (f"_distilled{self.nodes}" if self.nodes else "")

    @property
    def teacher(self) -> int:
        """The round that makes its pairs and whose weights it starts from."""
        return self.number if self.nodes else self.number - 1


def stages(asked: Reflow) -> list[Stage]:
    """The models in the order in which they are made."""
    flows = [Stage(number=k) for k in range(asked.rounds + 1)]
    return [*flows, *([Stage(number=asked.rounds, nodes=asked.distill)] if asked.distill else [])]


def check(model: Model, experiment: Experiment, asked: Reflow) -> None:
    """Refuse, before anything is made, what cannot be rectified."""
    Round(start="", pairs="", noise_levels=asked.noise_levels)(experiment)
    check_parameters(experiment, model.denoiser.params)
    straightness.refuse_other_clocks(model.process)
    if model.denoiser.singular(np.zeros(1)).any():
        raise ValueError(
            "reflow starts at pure noise, where this network's prediction or noise label is not defined; train one "
            'that predicts "velocity" with the time as its label (precondition=Identity()).'
        )
    if asked.pairs < experiment.batch_size:
        raise ValueError(f"reflow needs at least one batch of pairs, {experiment.batch_size}; got {asked.pairs}.")
    guided(model.denoiser, asked.guidance, model.num_classes)
    plan = samplers.plan(asked.sampler, model.process, asked.nfe, asked.grid)
    if plan.draws:
        raise ValueError(f"{asked.sampler} draws noise; the pairs of reflow are ends of the ODE, so use euler or heun.")
    if float(plan.t[0]) != model.process.t_noise:
        raise ValueError(
            f"grid {asked.grid} starts at t = {float(plan.t[0]):.3g} as if that were pure noise, which puts a bias "
            "into every pair; use uniform_t, which starts at 0."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Work:
    """A directory being filled."""

    run: epath.PathLike
    out: epath.Path
    asked: Reflow
    config: Any
    mesh: Mesh | None
    progress: Progress

    def open(self, model: Model) -> None:
        """Begin the directory, or check that it is about the same model, options and config."""
        path, described = self.out / "reflow.json", describe(self.config, self.mesh)
        options = {k: v for k, v in dataclasses.asdict(self.asked).items() if k not in ("rounds", "distill", "batch")}
        asked = {"run": str(self.run), "step": model.step, "weights": model.weights, **options}
        new = {"asked": asked, **described}
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"{self.out} is a file; name a directory.")
        if path.exists():
            if changed := differences(*(_flat(described) for described in (read_json(path), new))):
                listing = "\n".join(changed)
                raise ValueError(
                    f"{self.out} holds a reflow that was asked for otherwise:\n{listing}\nIts pairs and rounds were "
                    "made with the old values; repeat those, or choose another directory."
                )
        elif self.out.exists() and any(self.out.iterdir()):
            raise ValueError(f"{self.out} is not empty and holds no reflow (no reflow.json); choose another directory.")
        write_json(path, new)

    def train(
        self, stage: Stage, teacher: Model, callbacks: Callable[[Experiment, str], Sequence[Callback]]
    ) -> Outcome | None:
        """Make the pairs and train the stage on them; None if that was done before."""
        start = "round0" if stage.teacher == 0 else f"round{stage.teacher}"
        change = Round(
            start=str(self.run) if stage.teacher == 0 else start,
            pairs=f"pairs{stage.teacher}",
            noise_levels=self.asked.noise_levels,
            nodes=stage.nodes,
        )
        experiment, folder = change(self.config.experiment()), self.out / stage.name
        if trained_to(folder) >= experiment.steps:
            return None
        self.store_pairs(stage.teacher, teacher)
        source = stored(self.out / change.pairs, experiment.num_classes)
        file = epath.Path(self.run) / "experiment.py"
        described = open_run(folder, self.config, file, self.mesh, override=False, round=change)
        return fit(
            experiment,
            folder,
            mesh=self.mesh,
            source=source,
            init=teacher.denoiser.params,
            callbacks=callbacks(experiment, str(folder)),
            meta={"config": described["config"], "round": described["round"]},
        )

    def store_pairs(self, number: int, model: Model) -> None:
        """The pairs of a round's flow; those on disk stay."""
        with self.progress(f"pairs of round {number}", self.asked.pairs) as report:
            store(
                self.out / f"pairs{number}",
                self.flow(number, model),
                samplers.plan(self.asked.sampler, model.process, self.asked.nfe, self.asked.grid),
                model.shape,
                num=self.asked.pairs,
                num_classes=model.num_classes,
                seed=seed_of(self.asked.seed, number),
                batch_size=self.asked.batch,
                mesh=self.mesh,
                report=report,
            )

    def flow(self, number: int, model: Model) -> Any:
        """The denoiser whose flow is rectified: guided only if it is the first."""
        return guided(model.denoiser, self.asked.guidance if number == 0 else 1.0, model.num_classes)

    def measure(self, stage: Stage, model: Model, teacher: Model, before: Sequence[Row]) -> Row:
        """The stage's row, measured once and kept beside it."""
        path = self.out / "round0.json" if stage.name == "round0" else self.out / stage.name / "straightness.json"
        key = {"stage": stage.name, "step": model.step, "weights": model.weights, "measured": self.asked.measured}
        if path.exists() and key.items() <= (row := read_json(path)).items():
            return row
        with self.progress(f"measuring {stage.name}", self.asked.measured) as report:
            paths = fine_paths(
                self.flow(stage.number, teacher if stage.nodes else model),
                model.process,
                model.shape,
                num=self.asked.measured,
                num_classes=model.num_classes,
                seed=self.asked.seed,
                batch_size=self.asked.batch,
                report=report,
            )
        if stage.nodes:
            row = key | distilled_row(model.denoiser, model.process, stage.nodes, model.num_classes, paths)
        else:
            row = key | flow_row(paths, before)
        write_json(path, row)
        return row


def trained_to(folder: epath.Path) -> int:
    """The newest checkpoint's step, 0 if there is none."""
    stored = folder / "checkpoints"
    return max(Checkpoints(stored, read_only=True).steps(), default=0) if stored.exists() else 0


def _flat(described: dict[str, Any]) -> dict[str, Any]:
    """What was asked and the config's values, for comparison."""
    return described["asked"] | {f"config.{name}": value for name, value in described["config"].items()}
