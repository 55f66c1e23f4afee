"""How many short runs a second does a sweep make, beside a loop over compiled steps?

Run:      python -m benchmarks.sweeps
          XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m benchmarks.sweeps --widths 32
Takes:    three minutes.
Measures: nine learning rates of the perceptron of `experiments/transfer_mlp.py`, 200 steps each, in the three ways of
          `gendyn.parametrization.sweeps`, and as a user would write it: a loop over learning rates and steps around a
          compiled, donating step that takes the learning rate as an argument. Compilation is left out everywhere.
Writes:   benchmarks/results/sweeps.json.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
import tyro

from benchmarks import common
from experiments.transfer_mlp import Config
from gendyn.parametrization import grid
from gendyn.parametrization.sweeps import Mapped, Stepwise
from gendyn.training.trials import fixed_score, run_batches, trial


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    widths: tuple[int, ...] = (32, 128)
    steps: int = 200
    repeats: int = 5


def loop(make: Any, rates: list[float], batches: list[Any]) -> Any:
    """Runs one after another, as they are written without a sweep."""
    start = jax.jit(lambda rate, key: make(learning_rate=rate).start(key))

    def update(rate: Any, params: Any, state: Any, key: Any, k: Any, batch: Any) -> Any:
        params, state, _ = make(learning_rate=rate).update(params, state, jax.random.fold_in(key, k), batch)
        return params, state

    step = jax.jit(update, donate_argnums=(1, 2))

    def run() -> Any:
        ended = []
        for rate in rates:
            key_params, key = jax.random.split(jax.random.key(0))
            params, state = start(np.float32(rate), key_params)
            for k, batch in enumerate(batches):
                params, state = step(np.float32(rate), params, state, key, k, batch)
            ended.append(params)
        return ended

    return run


def measure(width: int, settings: Settings) -> dict[str, Any]:
    config = Config(width=width, base_width=32, steps=settings.steps)
    experiment, score = config.experiment(), fixed_score(config.experiment())
    batches = [jax.tree.map(np.asarray, batch) for batch in run_batches(experiment)]
    rates = [2.0**i for i in range(-12, -3)]

    def make(learning_rate: Any) -> Any:
        optimizer = dataclasses.replace(config, learning_rate=learning_rate).experiment().optimizer
        return trial(dataclasses.replace(experiment, optimizer=optimizer), score)

    members = [(i, point) for i, point in enumerate(grid(learning_rate=rates))]
    devices = jax.local_devices()
    executors = {
        "stepwise": Stepwise.of(make, {}, members, devices),
        "mapped": Mapped.of(make, {}, members, devices, 1),
        "vectorised": Mapped.of(make, {}, members, devices, len(rates)),
    }
    ways = {name: partial(each.run, jax.random.key(0), batches) for name, each in executors.items()}
    ways["loop"] = loop(make, rates, batches)
    seconds = common.interleaved(ways, settings.repeats, warmup=1)
    return {
        name: {
            "runs_per_second": common.spread(len(rates) / each),
            "over_loop": common.spread(seconds["loop"] / each),
        }
        for name, each in seconds.items()
    }


def main(settings: Settings) -> None:
    results = {}
    for width in settings.widths:
        results[f"width {width}"] = measure(width, settings)
        print(width, {name: round(v["over_loop"]["median"], 2) for name, v in results[f"width {width}"].items()})
    name = "sweeps" if jax.device_count() == 1 else f"sweeps_{jax.device_count()}_devices"
    print(common.record(name, results, dataclasses.asdict(settings)))


if __name__ == "__main__":
    main(tyro.cli(Settings))
