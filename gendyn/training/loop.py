"""The training loop: steps, logs, checkpoints, snapshots, callbacks, and how all of it stops."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import jax
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from gendyn import distributed
from gendyn.data import Source
from gendyn.training import costs
from gendyn.training.checkpoint import Checkpoints, table_meta
from gendyn.training.experiment import Experiment
from gendyn.training.logs import MetricsLog, Profile, ProgressLine, memory_gib
from gendyn.training.step import TrainState, abstract_state, build, state_shardings

Callback: TypeAlias = Callable[[int, TrainState, Any], None]
"""Called with (step, state, denoiser), the denoiser holding the first tracked average."""


class Diverged(RuntimeError):
    """Loss, gradient or parameters are not finite; the message names the step and the last good checkpoint."""


@dataclass
class Outcome:
    """How a call of `fit` ended."""

    state: TrainState
    step: int
    finished: bool
    stopped_by: str | None = None


@dataclass
class _Stop:
    """Set by SIGINT or SIGTERM, read between steps. A second signal acts at once."""

    name: str | None = None
    previous: dict[int, Any] = field(default_factory=dict)
    signals: ClassVar[tuple[int, ...]] = (signal.SIGINT, signal.SIGTERM)

    def __call__(self, number: int, frame: Any) -> None:
        self.name = signal.Signals(number).name
        self.release()

    def release(self) -> None:
        """Give the signals back to their owners."""
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def reached(self, step: int) -> bool:
        """Whether to stop after `step`; asked in every process at every step."""
        return self.name is not None


@dataclass
class _AgreedStop(_Stop):
    """Of several processes: jax spreads a SIGTERM that reached any of them and names one common step to all."""

    signals: ClassVar[tuple[int, ...]] = (signal.SIGINT,)  # SIGTERM is jax's own

    def __call__(self, number: int, frame: Any) -> None:
        self.release()
        os.kill(os.getpid(), signal.SIGTERM)

    def reached(self, step: int) -> bool:
        if self.name is None and multihost_utils.reached_preemption_sync_point(step):
            self.name = "SIGTERM"
        return self.name is not None


@contextmanager
def _stopping() -> Iterator[_Stop]:
    stop = _Stop() if jax.process_count() == 1 else _AgreedStop()
    try:
        stop.previous = {s: signal.signal(s, stop) for s in stop.signals}
    except ValueError:  # not the main thread (a notebook server): interrupts stay with their owner
        stop.previous = {}
    try:
        yield stop
    finally:
        stop.release()


def fit(
    experiment: Experiment,
    folder: epath.PathLike,
    *,
    mesh: Mesh | None = None,
    source: Source | None = None,
    init: Any = None,
    callbacks: Sequence[Callback] = (),
    meta: dict[str, Any] | None = None,
    stop_at: int | None = None,
    wandb: str | None = None,
    profile: tuple[int, int] | None = None,
) -> Outcome:
    """Train, or go on training, in a run directory.

    The newest readable checkpoint in `folder` is continued exactly: parameters, optimiser, averages, key and data
    position, so that an interrupted run ends in the same bits as an uninterrupted one.

    Args:
        experiment: what to train.
        folder: run directory, local or gs://.
        mesh: devices; all by default.
        source: the training data, if it is open already.
        init: parameters that a fresh run starts from (another model's); a checkpoint in `folder` goes before them.
        callbacks: called every `experiment.sample_every` steps and at the end.
        meta: JSON values stored in every checkpoint (the resolved config), beside the network's table if it has one.
        stop_at: end early at this step (the run stays resumable).
        wandb: project name, to log there too.
        profile: first and last step, counted from 1 in this call, of a profiler trace in RUN/profile.

    Raises:
        Diverged: when the loss, the gradient or the parameters stop being finite.
    """
    mesh = distributed.data_mesh() if mesh is None else mesh
    folder = epath.Path(folder)
    checkpoints = Checkpoints(folder / "checkpoints", keep_last=experiment.keep_last, keep_every=experiment.keep_every)
    snapshots = Checkpoints(folder / "ema", keep_last=None) if experiment.snapshot_every else None
    messages: list[str] = []
    restored = checkpoints.restore(
        abstract_state(experiment), experiment.ema, state_shardings(experiment, mesh), report=messages.append
    )
    start = 0 if restored is None else int(restored.step)
    if start:
        checkpoints.check_table(start, experiment.network.table)
    if snapshots and restored is not None:
        snapshots.forget(after=start)
    init = init if restored is None else None
    state, step_fn, batches = build(experiment, mesh=mesh, start=start, source=source, init=init)
    state = state if restored is None else restored
    end = min(experiment.steps, stop_at or experiment.steps)
    log = MetricsLog(folder, start=start, wandb=wandb)
    run = _Run(
        experiment,
        checkpoints,
        snapshots,
        log,
        tuple(callbacks),
        {**(meta or {}), **table_meta(experiment.network.table)},
        costs.utilisation(experiment, list(mesh.devices.flat)),
        Profile(folder, profile, start),
    )
    try:
        with _stopping() as stop, ProgressLine(experiment.steps, start, experiment.batch_size) as progress:
            for message in messages:
                progress.say(message)
            if start:
                progress.say(f"continuing from step {start}")
            state, step = run.steps(state, step_fn, batches, start, end, stop, progress)
    finally:
        run.profile.close()
        log.close()
        for store in filter(None, (checkpoints, snapshots)):
            store.close()
    return Outcome(state=state, step=step, finished=step >= experiment.steps, stopped_by=stop.name)


@dataclass
class _Run:
    """What the loop writes to; `pending` holds metrics still on the device, fetched only when they are logged."""

    experiment: Experiment
    checkpoints: Checkpoints
    snapshots: Checkpoints | None
    log: MetricsLog
    callbacks: tuple[Callback, ...]
    meta: dict[str, Any]
    utilisation: float | None
    profile: Profile
    pending: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    waited: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def steps(
        self,
        state: TrainState,
        step_fn: Any,
        batches: Iterator[Any],
        start: int,
        end: int,
        stop: _Stop,
        progress: ProgressLine,
    ) -> tuple[TrainState, int]:
        step = start
        while step < end and not stop.reached(step):
            self.profile.before(step)
            asked = time.monotonic()
            batch = next(batches)
            self.waited += time.monotonic() - asked
            state, metrics = step_fn(state, batch)
            step += 1
            self.profile.after(step, metrics)
            self.pending.append((step, metrics))
            progress.advance(step)
            self._after(step, state, progress)
        if step > start:
            self._flush(step, progress)
            self._save(state, step)
        return state, step

    def _after(self, step: int, state: TrainState, progress: ProgressLine) -> None:
        every = self.experiment
        if step % every.log_every == 0:
            self._flush(step, progress)
        if step % every.checkpoint_every == 0:
            self._flush(step, progress)
            self._save(state, step)
        if self.snapshots and step % (every.snapshot_every or 1) == 0:
            self._flush(step, progress)
            self.snapshots.save(state, every.ema, self.meta, only=["ema"])
        if (every.sample_every and step % every.sample_every == 0) or step == every.steps:
            self._flush(step, progress)
            denoiser = every.objective.denoiser(every.network.apply, state.ema[0] if state.ema else state.params)
            for callback in self.callbacks:
                callback(step, state, denoiser)

    def _flush(self, step: int, progress: ProgressLine) -> None:
        """Fetch what is pending, refuse what is not finite, log the mean since the last time."""
        if not self.pending:
            return
        steps, metrics = zip(*self.pending)
        rows = [(s, {k: float(v) for k, v in m.items()}) for s, m in zip(steps, jax.device_get(metrics))]
        self.pending.clear()
        for s, row in rows:
            if bad := [name for name, value in row.items() if not math.isfinite(value)]:
                raise Diverged(self._diverged(s, bad))
        mean = {k: sum(row[k] for _, row in rows) / len(rows) for k in rows[0][1]}
        self.log.write(step, mean | self._speed(progress.rate(step)))
        progress.note(step, mean)

    def _speed(self, rate: float) -> dict[str, float]:
        """Images per second, the share of the time since the last row that was spent waiting for data, and, where they
        are known, the model's FLOPs as a share of the devices' peak and the most memory held."""
        now = time.monotonic()
        waiting, self.waited, self.since = self.waited / max(now - self.since, 1e-9), 0.0, now
        mfu = {} if self.utilisation is None else {"mfu": rate * self.utilisation}
        return {"images_per_second": rate, "data_wait": waiting, **mfu, **memory_gib()}

    def _save(self, state: TrainState, step: int) -> None:
        position = step * self.experiment.batch_size
        self.checkpoints.save(state, self.experiment.ema, {**self.meta, "step": step, "position": position})

    def _diverged(self, step: int, bad: list[str]) -> str:
        self.checkpoints.wait()
        kept = self.checkpoints.steps()
        last = f"the last good checkpoint is step {kept[-1]}" if kept else "there is no checkpoint yet"
        return (
            f"not finite at step {step}: {', '.join(sorted(bad))}; {last}. Lower the learning rate, clip gradients, or "
            "look at the data of that step; the same command continues from the checkpoint."
        )
