"""What does executing a table cost, beside the network calls that it makes?

Run:      python -m benchmarks.sampler_overhead          (or `make bench`)
Takes:    about two minutes on two CPU cores.
Measures: 1. a sampler of twenty calls against twenty jitted calls of the same network, each taking the last one's
             output, for a network of at least 5 ms a call: the ratio of wall times;
          2. the same against a bare `lax.scan` of x <- a x + b D(x, t), for a network that costs nothing: microseconds
             per row, and per call of `run`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import gendyn as gd
from benchmarks.common import interleaved, record, spread


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sampler overhead."""

    calls: int = 20
    repeats: int = 21
    batch: int = 64
    width: int = 128
    depth: int = 4
    least_ms: float = 5.0
    """The batch is doubled until a network call takes so long."""
    rows: tuple[int, int] = (20, 1020)
    """Rows of the short and of the long plan in the second measurement."""


@jax.jit
def call(D: Any, x: jax.Array, t: jax.Array) -> jax.Array:
    return D(x, t, None)


@jax.jit
def bare(D: Any, x: jax.Array, t: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """What a sampler of order one comes down to, written by hand."""
    return jax.lax.scan(lambda x, row: (row[1] * x + row[2] * D(x, row[0], None), None), x, (t, a, b))[0]


def network(config: Config, process: gd.processes.Process) -> Any:
    """A transformer on 8x8 images with random weights."""
    made = gd.networks.functional(
        partial(gd.networks.DiT, (8, 8, 1), patch=2, width=config.width, depth=config.depth, heads=4)
    )
    params = gd.networks.initialise(made, jax.random.key(0))
    return gd.denoiser(made.apply, params, process, "F", precondition=gd.predictions.EDMPreconditioner())


def in_turn(D: Any, x: jax.Array, times: list[jax.Array]) -> jax.Array:
    for t in times:
        x = call(D, x, t)
    return x


def whole(config: Config, process: gd.processes.Process) -> dict[str, Any]:
    """The sampler against its network calls."""
    D, batch = network(config, process), config.batch
    plan = gd.plan("ddim", process, nfe=config.calls)
    times = [jnp.float32(t) for t in plan.t]
    while True:
        x = process.sample_prior(jax.random.key(0), (batch, 8, 8, 1))
        one = interleaved({"call": lambda: call(D, x, times[0])}, repeats=7)["call"]  # noqa: B023
        if np.median(one) * 1e3 >= config.least_ms:
            break
        batch *= 2
    sampler, calls = lambda: gd.samplers.run(plan, D, x), lambda: in_turn(D, x, times)
    seconds = interleaved({"sampler": sampler, "calls": calls}, config.repeats)
    return {
        "batch": batch,
        "ms_per_call": spread(seconds["calls"] / config.calls * 1e3),
        "ratio": spread(seconds["sampler"] / seconds["calls"]),
        "ratio_of_fastest": float(seconds["sampler"].min() / seconds["calls"].min()),
    }


def per_row(config: Config, process: gd.processes.Process) -> dict[str, Any]:
    """The executor against a bare scan, for a short and a long plan: a slope and an intercept."""
    D = gd.denoiser(lambda params, x, label, cond: params * x, jnp.float32(0.1), process, "denoised")
    x = process.sample_prior(jax.random.key(0), (8, 2))
    extra = []
    for rows in config.rows:
        plan = gd.plan("ddim", process, nfe=rows)
        t, a, b = (jnp.asarray(v, jnp.float32) for v in (plan.t, plan.sx, plan.sm[:, 0]))
        runs = {"run": partial(gd.samplers.run, plan, D, x), "bare": partial(bare, D, x, t, a, b)}
        seconds = interleaved(runs, config.repeats)
        extra.append(1e6 * (seconds["run"] - seconds["bare"]))
    short, long = config.rows
    slope = (np.median(extra[1]) - np.median(extra[0])) / (long - short)
    return {
        "us_per_row": float(slope),
        "us_per_run": float(np.median(extra[0]) - slope * short),
        f"extra_us_at_{short}_rows": spread(extra[0]),
        f"extra_us_at_{long}_rows": spread(extra[1]),
    }


def main(config: Config) -> None:
    process = gd.processes.EDM()
    results = {"against_calls": whole(config, process), "against_scan": per_row(config, process)}
    path = record("sampler_overhead", results, asdict(config))
    ratio, row = results["against_calls"]["ratio"], results["against_scan"]
    print(
        f"{config.calls} calls of {results['against_calls']['ms_per_call']['median']:.1f} ms: ratio "
        f"{ratio['median']:.3f} ({ratio['quartile_low']:.3f} to {ratio['quartile_high']:.3f})\n"
        f"{row['us_per_row']:.2f} us per row, {row['us_per_run']:.0f} us per run\n{path}"
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
