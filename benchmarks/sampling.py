"""What does sampling cost in gendyn and in PyTorch, for the same network and the same plan, in time and in memory?

Run:      pip install -e '.[bench]' && python -m benchmarks.sampling
Takes:    about five minutes of one core.
Measures: for the networks of `train_step`, from the same starts, in float32 on one pinned core:
          1. seconds per batch, and images per second: gendyn's compiled program; PyTorch's eager network, without
             gradients, driven through the same rows by `run_eager`; contestants take turns;
          2. the time of the program over that of as many calls of the jitted network: what sampling adds;
          3. the most bytes held beside parameters and starts: XLA's account of the program, and the allocations that
             PyTorch's profiler sees;
          4. the same of one training step of `train_step`;
          5. the greatest difference of the samples, relative to the greatest entry: they are to be the same.
Writes:   benchmarks/results/sampling.json.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import gendyn as gd
from benchmarks import memory
from benchmarks.common import interleaved, record, spread
from benchmarks.train_step import (
    CHANNELS,
    SIDE,
    experiment,
    gendyn_networks,
    randomised,
    torch_network,
    torch_step,
)

PROCESS = gd.processes.RectifiedFlow()


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sampling next to PyTorch's."""

    networks: tuple[str, ...] = ("dit_s4", "unet")
    sampler: str = "dpmpp_2m"
    nfe: int = 10
    batch: int = 8
    trained: int = 4
    """Examples in the training step whose memory is measured, as in `train_step`."""
    repeats: int = 9
    core: int = 0


def starts(batch: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal((batch, SIDE, SIDE, CHANNELS)).astype(np.float32)


def gendyn_sampling(network: Any, params: Any, plan: Any, batch: int) -> tuple[Callable[[], Any], Any]:
    """(a batch of samples, the compiled program)."""
    denoiser = experiment(network, batch).objective.denoiser(network.apply, params)
    x_T = jnp.asarray(starts(batch))
    compiled = jax.jit(gd.samplers.run).lower(plan, denoiser, x_T).compile()
    return lambda: compiled(plan, denoiser, x_T), compiled


def gendyn_call(network: Any, params: Any, batch: int) -> Callable[[], Any]:
    apply, x = jax.jit(network.apply), jnp.asarray(starts(batch))
    return lambda: apply(params, x, 0.5)


def torch_sampling(name: str, params: Any, plan: Any, batch: int) -> Callable[[], Any]:
    import torch

    from benchmarks.torch_networks import parameters

    network = torch_network(name)
    own = {path: leaf.detach() for path, leaf in parameters(params).items()}
    x_T = torch.tensor(starts(batch)).permute(0, 3, 1, 2).contiguous()

    def denoised(x: Any, t: float) -> Any:
        return x + (1.0 - t) * network(own, x, torch.full((batch,), t))

    def run() -> Any:
        with torch.inference_mode():
            return gd.samplers.run_eager(plan, denoised, x_T)

    return run


def train_memory(config: Config, name: str, network: Any) -> dict[str, int]:
    made = experiment(network, config.trained)
    batch = gd.training.costs.abstract_batch(made, config.trained)
    mesh = gd.distributed.make_mesh(devices=jax.devices()[:1])
    step = gd.training.step.compiled_step(made, mesh).lower(gd.training.abstract_state(made), batch).compile()
    found = {"gendyn": memory.xla(step)}
    if importlib.util.find_spec("torch"):
        run = torch_step(name, network.init(jax.random.key(0)), config.trained, compiled=False)
        run()  # the optimiser's moments are made once
        found["torch_eager"] = memory.torch_call(run)
    return found


def measured(config: Config, name: str) -> dict[str, Any]:
    network = gendyn_networks()[name]
    params = randomised(network)
    plan = gd.plan(config.sampler, PROCESS, config.nfe)
    ours, compiled = gendyn_sampling(network, params, plan, config.batch)
    contestants: dict[str, Callable[[], Any]] = {"gendyn": ours, "call": gendyn_call(network, params, config.batch)}
    results: dict[str, Any] = {"memory": {"gendyn": memory.xla(compiled)}}
    if importlib.util.find_spec("torch"):
        contestants["torch_eager"] = theirs = torch_sampling(name, params, plan, config.batch)
        apart = np.abs(np.asarray(ours()) - theirs().permute(0, 2, 3, 1).numpy()).max()
        results["differ"] = float(apart / np.abs(np.asarray(ours())).max())
        results["memory"]["torch_eager"] = memory.torch_call(theirs)
    results["train_step_memory"] = train_memory(config, name, network)
    seconds = interleaved(contestants, config.repeats)
    for contestant in set(contestants) - {"call"}:
        values = seconds[contestant]
        results[contestant] = {"seconds": spread(values), "images_per_second": spread(config.batch / values)}
    results["over_calls"] = spread(seconds["gendyn"] / (config.nfe * seconds["call"]))
    if "torch_eager" in seconds:
        results["torch_over_gendyn"] = spread(seconds["torch_eager"] / seconds["gendyn"])
    return results


def main(config: Config) -> None:
    os.sched_setaffinity(0, {config.core})  # before either framework starts its threads
    peers = {}
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        peers = {"torch": importlib.metadata.version("torch")}
    else:
        print("PyTorch is not installed (pip install -e '.[bench]'): only gendyn's own sampling is measured.")
    results = {}
    for name in config.networks:
        results[name] = measured(config, name)
        print(name, results[name], record("sampling", results, asdict(config) | {"peers": peers}), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
