"""How long a save keeps the step loop waiting, beside a save that is waited for.

    python -m benchmarks.checkpoint

A state of 128 MB (parameters, one average, two moments). The asynchronous save is timed until it returns, the
synchronous one until the files are whole; both take turns, each into a folder of its own that is emptied in between.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks import common
from gendyn.training import Checkpoints, TrainState


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time saves and write the result."""

    megabytes: int = 128
    arrays: int = 64
    repeats: int = 9
    folder: str | None = None
    """Where to write; a temporary folder unless given."""


def state(settings: Settings) -> TrainState:
    """Parameters, an average and two moments, as many arrays each."""
    size = settings.megabytes * 10**6 // (4 * 4 * settings.arrays)
    tree = lambda value: {f"w{i:03d}": jnp.full(size, value, jnp.float32) for i in range(settings.arrays)}
    moments = {"mu": tree(1.0), "nu": tree(2.0)}
    return TrainState(params=tree(0.0), opt_state=moments, ema=(tree(3.0),), step=jnp.int32(0), key=jax.random.key(0))


def seconds(saved: Any, folder: pathlib.Path, step: int) -> tuple[float, float]:
    """(until the save returns, until it is whole)."""
    store = Checkpoints(folder, keep_last=1)
    saved = dataclasses.replace(saved, step=jnp.int32(step))
    jax.block_until_ready(saved.params)
    start = time.perf_counter()
    store.save(saved, (0.1,), {})
    blocked = time.perf_counter() - start
    store.wait()
    whole = time.perf_counter() - start
    store.close()
    shutil.rmtree(folder)
    return blocked, whole


def main(settings: Settings) -> None:
    saved = state(settings)
    folder = pathlib.Path(settings.folder or tempfile.mkdtemp()) / "checkpoints"
    seconds(saved, folder, 0)
    pairs = np.array([seconds(saved, folder, step) for step in range(1, settings.repeats + 1)])
    results = {
        "blocked_seconds": common.spread(pairs[:, 0]),
        "whole_seconds": common.spread(pairs[:, 1]),
        "ratio": common.spread(pairs[:, 0] / pairs[:, 1]),
    }
    for name, value in results.items():
        print(f"{name}: {value['median']:.4f} ({value['quartile_low']:.4f} to {value['quartile_high']:.4f})")
    print(common.record("checkpoint", results, dataclasses.asdict(settings)))


if __name__ == "__main__":
    main(tyro.cli(Settings))
