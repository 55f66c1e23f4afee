"""Where a run's numbers go: one progress line for people, JSONL and TensorBoard for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from gendyn.files import write_atomic


class MetricsLog:
    """Append-only `metrics.jsonl` and TensorBoard events; W&B too if asked. Process 0 writes, the others do nothing.

    Rows after `start` (from a run that was killed beyond its last checkpoint) are dropped: a step is logged once.
    """

    def __init__(self, folder: epath.PathLike, *, start: int = 0, wandb: str | None = None):
        self.active = jax.process_index() == 0
        if not self.active:
            return
        self.path = epath.Path(folder) / "metrics.jsonl"
        self.rows = [row for row in read_metrics(folder) if row["step"] <= start]
        write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))
        from tensorboardX import SummaryWriter  # here: it costs half a second to import

        purge = start + 1 if start else None
        self.board = SummaryWriter(str(epath.Path(folder) / "tensorboard"), purge_step=purge, flush_secs=20)
        self.wandb = _wandb(wandb, folder) if wandb else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if not self.active:
            return
        row = {"step": step, **values}
        self.rows.append(row)
        if "://" in str(self.path):  # buckets cannot append
            write_atomic(self.path, "".join(json.dumps(r) + "\n" for r in self.rows))
        else:
            with open(self.path, "a") as stream:
                stream.write(json.dumps(row) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        if self.wandb:
            self.wandb.log(dict(values), step=step)

    def close(self) -> None:
        if self.active:
            self.board.close()
            if self.wandb:
                self.wandb.finish()


def read_metrics(folder: epath.PathLike) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl`; a last line cut short by a crash is left out."""
    path = epath.Path(folder) / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _wandb(project: str, folder: epath.PathLike) -> Any:
    try:
        import wandb
    except ImportError:
        raise ValueError(
            "logging to W&B needs the package: pip install 'gendyn[wandb]', or leave --wandb out."
        ) from None
    return wandb.init(project=project, dir=str(folder), name=epath.Path(folder).name, resume="allow")


class Profile:
    """A trace of the steps `first` to `last` of this call, by jax's profiler, in RUN/profile; none unless asked for.

    The first steps compile, so that a trace should not begin with them.
    """

    def __init__(self, folder: epath.PathLike, span: tuple[int, int] | None, start: int):
        self.folder = str(epath.Path(folder) / "profile")
        self.span = span and (start + span[0], start + span[1])
        self.running = False

    def before(self, step: int) -> None:
        """Called before the step after `step` steps."""
        if self.span and step + 1 == self.span[0]:
            jax.profiler.start_trace(self.folder)
            self.running = True

    def after(self, step: int, metrics: Any) -> None:
        if self.span and self.running and step == self.span[1]:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        if self.running:
            jax.profiler.stop_trace()
            self.running = False


def memory_gib() -> dict[str, float]:
    """The most that the first device has held, where the platform says so."""
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {} if peak is None else {"memory_gib": peak / 2**30}


class ProgressLine:
    """One bar with loss, images/s and the time left; plain lines every ten seconds where there is no terminal."""

    def __init__(self, total: int, done: int, batch_size: int, console: Console | None = None):
        self.total, self.batch_size = total, batch_size
        self.console = console or Console(stderr=True)
        self.quiet = jax.process_index() != 0
        self.live = self.console.is_terminal and not self.quiet
        self.start_step, self.start_time = done, time.monotonic()
        self.last_line, self.started = self.start_time, False
        columns = [
            SpinnerColumn(),
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        ]
        self.bar = Progress(
            *columns, TimeRemainingColumn(), console=self.console, transient=False, disable=not self.live
        )
        self.task = self.bar.add_task("training", total=total, completed=done, note="")

    def __enter__(self) -> ProgressLine:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def advance(self, step: int) -> None:
        if not self.started:  # the first step compiles; the rate counts from its end
            self.started, self.start_step, self.start_time = True, step, time.monotonic()
        self.bar.update(self.task, completed=step)

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Show the newest numbers; images per second are since the start."""
        rate = self.rate(step)
        text = f"loss {values['loss']:.4f}" + (f"  {rate:,.0f} images/s" if rate else "")
        self.bar.update(self.task, completed=step, note=text)
        now = time.monotonic()
        if not self.live and not self.quiet and (now - self.last_line > 10 or step == self.total):
            self.last_line = now
            left = f"  {(self.total - step) * self.batch_size / rate:,.0f} s left" if rate else ""
            print(f"step {step}/{self.total}  {text}{left}", file=sys.stderr, flush=True)

    def rate(self, step: int) -> float:
        return (step - self.start_step) * self.batch_size / max(time.monotonic() - self.start_time, 1e-9)

    def say(self, text: str) -> None:
        """A line that does not disturb the bar."""
        if not self.quiet:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
