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

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from gendyn import samplers
from gendyn.data import npz
from gendyn.files import read_json, write_json, write_npz
from gendyn.samplers import SamplerPlan, straightness
from gendyn.training.checkpoint import Checkpoints
from gendyn.training.experiment import Experiment
from gendyn.training.loop import Callback, Outcome, fit
from gendyn.training.rounds import Round
from gendyn.training.runs import Model, describe, differences, load, open_run
from gendyn.training.sampling import class_labels, guided, pairs

Progress: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""(what, total) -> a context that gives a function of the number done."""
Row: TypeAlias = dict[str, Any]
SHARD = 1024  # pairs in a file: what a kill can cost


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


def check(model: Model, experiment: Experiment, asked: Reflow) -> SamplerPlan:
    """Refuse, before anything is made, what cannot be rectified; the plan that makes the pairs."""
    Round(start="", pairs="", noise_levels=asked.noise_levels)(experiment)
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
            f"grid {asked.grid} starts at t = {float(plan.t[0]):.3g} as if that were pure noise, which puts a bias into "
            "every pair; use uniform_t, which starts at 0."
        )
    return plan


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
            old = read_json(path)
            changed = differences(*({**o["asked"], **{f"config.{k}": v for k, v in o["config"].items()}} for o in (old, new)))
            if changed:
                listing = "\n".join(changed)
                raise ValueError(
                    f"{self.out} holds a reflow that was asked for otherwise:\n{listing}\nIts pairs and rounds were made "
                    "with the old values; repeat those, or choose another directory."
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
        self.pairs(stage.teacher, teacher)
        fields: dict[str, Any] = {"fields": ("base",), "num_classes": experiment.num_classes}
        source = npz(self.out / change.pairs, **fields)
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

    def pairs(self, number: int, model: Model) -> None:
        """Store the pairs of a round's flow, shard by shard; those on disk stay."""
        asked, folder = self.asked, self.out / f"pairs{number}"
        plan = samplers.plan(asked.sampler, model.process, asked.nfe, asked.grid)
        D = self.flow(number, model)
        with self.progress(f"pairs of round {number}", asked.pairs) as report:
            for first in range(0, asked.pairs, SHARD):
                rows = range(first, min(first + SHARD, asked.pairs))
                path = folder / f"{first // SHARD:06d}.npz"
                if not path.exists():
                    labels = self.labels(rows, model)
                    options = {"seed": pairs_seed(asked.seed, number), "batch_size": asked.batch, "mesh": self.mesh}
                    base, data = pairs(D, plan, model.shape, rows=rows, labels=labels, **options)
                    if not np.isfinite(data).all():
                        raise ValueError(f"some pairs of round {number} are not finite; use more network calls.")
                    write_npz(path, base=base, data=data, **({} if labels is None else {"label": labels}))
                report(rows.stop)

    def flow(self, number: int, model: Model) -> Any:
        """The denoiser whose flow is rectified."""
        return guided(model.denoiser, self.asked.guidance if number == 0 else 1.0, model.num_classes)

    def labels(self, rows: range, model: Model) -> np.ndarray | None:
        """Classes in turn."""
        return None if model.num_classes is None else class_labels(rows.stop, model.num_classes)[rows.start :]

    def measure(self, stage: Stage, model: Model, teacher: Model, rows: list[Row]) -> Row:
        """The stage's row, measured once and kept beside it."""
        path = self.out / "round0.json" if stage.name == "round0" else self.out / stage.name / "straightness.json"
        key = {"step": model.step, "weights": model.weights}
        if path.exists() and key.items() <= (row := read_json(path)).items():
            return row
        D = self.flow(stage.number, teacher if stage.nodes else model)
        paths = self.measured_paths(D, model)
        row = {"stage": stage.name, **key, "measured": self.asked.measured}
        if stage.nodes:
            row |= self.distilled(stage.nodes, model, paths)
        else:
            row |= flow_row(paths, [r["straightness"] for r in rows], rows)
        write_json(path, row)
        return row

    def measured_paths(self, D: Any, model: Model) -> straightness.Paths:
        """Fine solutions from fresh noise, the same for every stage, batch by batch, on the host."""
        num, key = self.asked.measured, jax.random.key(pairs_seed(self.asked.seed, -1))
        x_T = np.asarray(jax.random.normal(key, (num, *model.shape)))
        labels, done = self.labels(range(num), model), []
        with self.progress("measuring paths", num) as report:
            for i in range(0, num, self.asked.batch):
                rows = slice(i, i + self.asked.batch)
                cond = None if labels is None else labels[rows]
                paths = straightness.follow(model.process, D, x_T[rows], cond=cond)
                done.append(jax.tree.map(np.asarray, paths))
                report(min(i + self.asked.batch, num))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *done)

    def distilled(self, nodes: int, model: Model, teacher: straightness.Paths) -> Row:
        """A distilled model against the fine solution of its teacher."""
        plan = samplers.plan("euler", model.process, nodes, "uniform_t")
        labels = self.labels(range(len(teacher.start)), model)
        end = np.asarray(samplers.run(plan, model.denoiser, teacher.start, cond=labels))
        return costs(teacher.start, end) | {"nfe": nodes, "rmse": _rms((end - teacher.end) ** 2)}


def flow_row(paths: straightness.Paths, before: Sequence[float], rows: Sequence[Row]) -> Row:
    """Straightness, costs and one-step error of a flow, and the bound on the straightest of all so far.

    The bound's cost is that of independent pairs, E|data|^2 + E|base|^2 with the first flow's own samples as data.
    """
    entries = paths.start[0].size
    bend = float(paths.bend.mean())
    independent = rows[0]["independent"] if rows else float(straightness.squared(paths.end).mean()) + entries
    flows = len(before) + 1
    bound = {"straightest": min([*before, bend]), "bound": independent / flows}
    one_step = {"nfe": 1, "rmse": float(np.sqrt(paths.leap.mean() / entries))}
    return {"straightness": bend, **costs(paths.start, paths.end), **one_step, "independent": independent, **bound}


def costs(start: np.ndarray, end: np.ndarray) -> dict[str, float]:
    """Every cost of `straightness.COSTS`."""
    return {name: float(straightness.transport_cost(start, end, c)) for name, c in straightness.COSTS.items()}


def pairs_seed(seed: int, number: int) -> int:
    """The seed of a round's pairs (-1: of the measured starts), apart from those that people give to `gendyn sample`."""
    return int(np.random.SeedSequence([seed, number + 1, 2209, 3003]).generate_state(1)[0] >> 1)


def trained_to(folder: epath.Path) -> int:
    """The newest checkpoint's step, 0 if there is none."""
    stored = folder / "checkpoints"
    return max(Checkpoints(stored, read_only=True).steps(), default=0) if stored.exists() else 0


def _rms(squares: np.ndarray) -> float:
    return float(np.sqrt(squares.mean()))
