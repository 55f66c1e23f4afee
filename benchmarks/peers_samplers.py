"""What does a sampler cost beside its network calls: gendyn, the schedulers of diffusers, the samplers of k-diffusion?

Run:      pip install -e '.[bench]' && python -m benchmarks.peers_samplers
Takes:    about three minutes on two CPU cores.
Measures: for one residual perceptron with EDM's preconditioning, the same weights in JAX and PyTorch, and DPM-Solver++
          (2M) on the same Karras nodes down to a clean one:
          1. wall time of a sampler over that of its bare network calls in the same framework, for a network of at
             least 5 ms a call (a sampler that costs nothing has 1), and the wall times themselves;
          2. for a network of no cost, microseconds per step, bare calls included;
          3. the greatest difference between the ends from one start: they are to be the same method.
          All contestants take turns. Two threads for each framework.
Writes:   benchmarks/results/peers_samplers.json.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from diffusers import EDMDPMSolverMultistepScheduler
from k_diffusion.sampling import sample_dpmpp_2m

import gendyn as gd
from benchmarks.common import interleaved, record, spread

DATA = 64
SIGMA_DATA = 0.5
PROCESS = gd.processes.EDM()


@dataclass(frozen=True, kw_only=True)
class Config:
    """Samplers next to those of PyTorch libraries."""

    calls: int = 20
    repeats: int = 15
    batch: int = 256
    width: int = 512
    blocks: int = 6
    free_batch: int = 8
    """Batch of the network that costs nothing."""
    threads: int = 2


def weights(width: int, blocks: int) -> list[np.ndarray]:
    """Of x -> in, blocks of x + W silu(x), out; the label is one more input."""
    random = np.random.default_rng(0)
    sizes = [(DATA + 1, width), *[(width, width)] * blocks, (width, DATA)]
    return [(random.standard_normal(size) / np.sqrt(size[0])).astype(np.float32) for size in sizes]


def jax_network(params: Sequence[jax.Array], x: jax.Array, label: jax.Array, cond: Any = None) -> jax.Array:
    first, *middle, last = params
    label = jnp.broadcast_to(label, x.shape[:1])
    h = jnp.concatenate([x, label[:, None]], 1) @ first
    for w in middle:
        h = h + jax.nn.silu(h) @ w
    return h @ last


def torch_network(params: Sequence[torch.Tensor], x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    first, *middle, last = params
    h = torch.cat([x, label.expand(x.shape[0])[:, None]], 1) @ first
    for w in middle:
        h = h + torch.nn.functional.silu(h) @ w
    return h @ last


def gendyn_sampler(params: Any, calls: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """(sampler, bare calls) of a start."""
    D = gd.denoiser(
        jax_network, params, PROCESS, "F", precondition=gd.predictions.EDMPreconditioner(sigma_data=SIGMA_DATA)
    )
    plan = gd.plan("dpmpp_2m", PROCESS, calls, "karras", grid_options={"final_zero": True})
    call, times = jax.jit(lambda D, x, t: D(x, t, None)), [jnp.float32(t) for t in plan.t]

    def bare(x: jax.Array) -> jax.Array:
        for t in times:
            x = call(D, x, t)
        return x

    return lambda x: gd.samplers.run(plan, D, x), bare


def torch_denoiser(params: Any) -> Callable[..., torch.Tensor]:
    def D(x: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
        norm = torch.sqrt(sigma**2 + SIGMA_DATA**2)[:, None]
        F = torch_network(params, x / norm, torch.log(sigma) / 4)
        return x * (SIGMA_DATA / norm) ** 2 + sigma[:, None] * SIGMA_DATA / norm * F

    return D


def k_diffusion_sampler(params: Any, calls: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    D, sigmas = torch_denoiser(params), nodes(calls)

    def sampler(x: torch.Tensor) -> torch.Tensor:
        return sample_dpmpp_2m(D, x, sigmas, disable=True)

    def bare(x: torch.Tensor) -> torch.Tensor:
        for sigma in sigmas[:-1]:
            x = D(x, sigma.expand(x.shape[0]))
        return x

    return sampler, bare


def diffusers_sampler(params: Any, calls: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    scheduler = EDMDPMSolverMultistepScheduler(
        sigma_min=PROCESS.sigma_min, sigma_max=PROCESS.sigma_max, sigma_data=SIGMA_DATA
    )

    def sampler(x: torch.Tensor) -> torch.Tensor:
        scheduler.set_timesteps(calls)
        for t in scheduler.timesteps:
            F = torch_network(params, scheduler.scale_model_input(x, t), t)
            x = scheduler.step(F, t, x).prev_sample
        return x

    def bare(x: torch.Tensor) -> torch.Tensor:
        for t in scheduler.timesteps:
            x = torch_network(params, x, t)
        return x

    scheduler.set_timesteps(calls)
    return sampler, bare


def nodes(calls: int) -> torch.Tensor:
    plan = gd.plan("dpmpp_2m", PROCESS, calls, "karras", grid_options={"final_zero": True})
    return torch.tensor([*plan.t, 0.0], dtype=torch.float32)


def contestants(arrays: list[np.ndarray], calls: int) -> dict[str, tuple[Any, Any, Callable[[np.ndarray], Any]]]:
    """Name -> sampler, bare calls, and how a start is handed over."""
    tensors, params = [torch.tensor(a) for a in arrays], [jnp.asarray(a) for a in arrays]
    return {
        "gendyn": (*gendyn_sampler(params, calls), jnp.asarray),
        "k-diffusion": (*k_diffusion_sampler(tensors, calls), torch.tensor),
        "diffusers": (*diffusers_sampler(tensors, calls), torch.tensor),
    }


def timed(config: Config, arrays: list[np.ndarray], batch: int) -> dict[str, dict[str, np.ndarray]]:
    """Seconds of each contestant's sampler and bare calls, all in turn."""
    start = PROCESS.sigma_max * np.random.default_rng(1).standard_normal((batch, DATA)).astype(np.float32)
    runs: dict[str, Callable[[], Any]] = {}
    for name, (sampler, bare, given) in contestants(arrays, config.calls).items():
        x = given(start)
        runs |= {
            f"{name}/sampler": lambda sampler=sampler, x=x: sampler(x),
            f"{name}/bare": lambda bare=bare, x=x: bare(x),
        }
    seconds = interleaved(runs, config.repeats)
    return {name: {kind: seconds[f"{name}/{kind}"] for kind in ("sampler", "bare")} for name in contestants(arrays, 2)}


def differences(arrays: list[np.ndarray], calls: int) -> dict[str, float]:
    """Of the ends from gendyn's, from one start."""
    start = PROCESS.sigma_max * np.random.default_rng(2).standard_normal((16, DATA)).astype(np.float32)
    ends = {name: np.asarray(run(given(start))) for name, (run, _, given) in contestants(arrays, calls).items()}
    return {name: float(np.abs(end - ends["gendyn"]).max()) for name, end in ends.items() if name != "gendyn"}


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    torch.set_grad_enabled(False)
    heavy, light = weights(config.width, config.blocks), weights(8, 0)
    slow, free = timed(config, heavy, config.batch), timed(config, light, config.free_batch)
    results: dict[str, Any] = {"ends_differ": differences(heavy, config.calls)}
    for name in slow:
        results[name] = {
            "sampler_ms": spread(1e3 * slow[name]["sampler"]),
            "ms_per_call": spread(1e3 * slow[name]["bare"] / config.calls),
            "over_bare_calls": spread(slow[name]["sampler"] / slow[name]["bare"]),
            "us_per_step_of_a_free_network": spread(1e6 * free[name]["sampler"] / config.calls),
        }
        print(name, {key: round(found["median"], 3) for key, found in results[name].items()}, flush=True)
    print(results["ends_differ"])
    peers = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "k-diffusion")}
    settings = asdict(config) | {"peers": peers, "taskset": sorted(os.sched_getaffinity(0))}
    print(record("peers_samplers", results, settings))


if __name__ == "__main__":
    main(tyro.cli(Config))
