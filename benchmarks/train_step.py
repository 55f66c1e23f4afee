"""What does a training step cost in gendyn and in PyTorch, for the same network, objective and optimiser?

Run:      pip install -e '.[bench]' && python -m benchmarks.train_step
Takes:    about six minutes of one core; --compiled, which needs a C++ compiler, several more per network.
Measures: for DiT-S/4 and gendyn's default U-Net on 32x32x3 in float32, on one pinned core:
          1. seconds of one training step: draw times and noise, flow-matching loss, gradient, AdamW. gendyn's is
             `gd.training.build`'s own, which also measures norms of gradient and parameters; PyTorch's is eager, with
             fused AdamW, and with --compiled also that of torch.compile;
          2. each over gendyn's, from the same round: contestants take turns;
          3. the greatest differences of output and of gradient from the same parameters and batch, relative to the
             greatest entry: the networks are to be the same.
Writes:   benchmarks/results/train_step.json.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import gendyn as gd
from benchmarks.common import interleaved, record, spread

SIDE, CHANNELS = 32, 3


@dataclass(frozen=True, kw_only=True)
class Config:
    """A training step next to PyTorch's."""

    networks: tuple[str, ...] = ("dit_s4", "unet")
    batch: int = 4
    repeats: int = 9
    core: int = 0
    """The one core on which everything runs."""
    compiled: bool = False
    """Also measure torch.compile."""


def gendyn_networks() -> dict[str, Any]:
    shape = (SIDE, SIDE, CHANNELS)
    makers = {"dit_s4": gd.networks.dit("S/4", shape), "unet": partial(gd.networks.UNet, 2, CHANNELS)}
    return {name: gd.networks.functional(make) for name, make in makers.items()}


def torch_network(name: str) -> Callable[..., Any]:
    from benchmarks import torch_networks

    if name == "dit_s4":
        return torch_networks.dit(**gd.networks.DIT_SIZES["S"], patch=4, side=SIDE)
    return torch_networks.unet(width=64, multipliers=(1, 2, 2), blocks=2, attends=(-1,))


def images(batch: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (batch, SIDE, SIDE, CHANNELS)).astype(np.float32)


def experiment(network: Any, batch: int) -> gd.training.Experiment:
    return gd.training.Experiment(
        network=network,
        objective=gd.objectives.Denoising(
            process=gd.processes.RectifiedFlow(),
            predicts="velocity",
            precondition=gd.predictions.Identity(),
            noise_levels=gd.objectives.noise_levels.UniformT(),
            weight=gd.objectives.weights.Uniform(),
        ),
        source=lambda: gd.data.arrays(images(batch)),
        shape=(SIDE, SIDE, CHANNELS),
        batch_size=batch,
        steps=1000,
        optimizer=gd.training.adamw(1e-4),
        ema=(),
    )


def gendyn_step(network: Any, batch: int) -> Callable[[], Any]:
    """One training step after another; each call returns the loss."""
    made = experiment(network, batch)
    state, step, _ = gd.training.build(made)
    rows, held = {"data": jnp.asarray(images(batch))}, [state]

    def run() -> jax.Array:
        held[0], metrics = step(held[0], rows)
        return metrics["loss"]

    return run


def torch_step(name: str, params: Any, batch: int, compiled: bool) -> Callable[[], Any]:
    import torch

    from benchmarks.torch_networks import parameters

    network, own = torch_network(name), parameters(params)
    data = torch.tensor(images(batch)).permute(0, 3, 1, 2).contiguous()
    optimizer = torch.optim.AdamW(own.values(), lr=1e-4, fused=True)

    def loss(own: Any, data: torch.Tensor) -> torch.Tensor:
        t, noise = torch.rand(data.shape[0]), torch.randn_like(data)
        x = torch.lerp(noise, data, t[:, None, None, None])
        return ((network(own, x, t) - (data - noise)) ** 2).mean()

    called = torch.compile(loss) if compiled else loss

    def run() -> float:
        optimizer.zero_grad()
        value = called(own, data)
        value.backward()
        optimizer.step()
        return value.item()

    return run


def randomised(network: Any) -> Any:
    """Parameters of order 1/sqrt(fan in): as they start, readouts and branches are zero and nothing could differ."""
    rng = np.random.default_rng(1)

    def draw(leaf: Any) -> jax.Array:
        return jnp.asarray(rng.standard_normal(leaf.shape) / np.sqrt(max(leaf.size / leaf.shape[-1], 16)), jnp.float32)

    return jax.tree.map(draw, jax.eval_shape(network.init, jax.random.key(0)))


def differences(name: str, network: Any) -> dict[str, float]:
    """Of output and gradient, greatest over greatest entry, on one batch of two."""
    import torch

    from benchmarks.torch_networks import gradients, parameters
    from gendyn.tree import paths

    params, data, label = randomised(network), images(2), np.array([0.2, 0.8], np.float32)

    def energy(params: Any) -> tuple[jax.Array, jax.Array]:
        output = network.apply(params, jnp.asarray(data), jnp.asarray(label))
        return ((output - data) ** 2).mean(), output

    ours, output = jax.jit(jax.grad(energy, has_aux=True))(params)
    own, x = parameters(params), torch.tensor(data).permute(0, 3, 1, 2)
    theirs = torch_network(name)(own, x, torch.tensor(label))
    ((theirs - x) ** 2).mean().backward()
    found = gradients(own)
    largest = max(float(np.abs(leaf).max()) for leaf in found.values())
    apart = max(float(np.abs(np.asarray(leaf) - found[path]).max()) for path, leaf in paths(ours))
    moved = theirs.detach().permute(0, 2, 3, 1).numpy()
    return {
        "output": float(np.abs(np.asarray(output) - moved).max() / np.abs(moved).max()),
        "gradient": apart / largest,
    }


def measured(config: Config, name: str) -> dict[str, Any]:
    network = gendyn_networks()[name]
    contestants = {"gendyn": gendyn_step(network, config.batch)}
    results: dict[str, Any] = {}
    if importlib.util.find_spec("torch"):
        results["differ"] = differences(name, network)
        params = network.init(jax.random.key(0))
        contestants["torch_eager"] = torch_step(name, params, config.batch, compiled=False)
        if config.compiled:
            contestants["torch_compiled"] = torch_step(name, params, config.batch, compiled=True)
    seconds = interleaved(contestants, config.repeats)
    for contestant, values in seconds.items():
        results[contestant] = {"seconds": spread(values)}
        if contestant != "gendyn":
            results[contestant]["over_gendyn"] = spread(values / seconds["gendyn"])
    return results


def main(config: Config) -> None:
    os.sched_setaffinity(0, {config.core})  # before either framework starts its threads
    peers = {}
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        peers = {"torch": importlib.metadata.version("torch")}
    else:
        print("PyTorch is not installed (pip install -e '.[bench]'): only gendyn's own steps are measured.")
    results = {}
    for name in config.networks:
        results[name] = measured(config, name)
        print(name, results[name], record("train_step", results, asdict(config) | {"peers": peers}), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
