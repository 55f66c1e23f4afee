"""Measuring a denoiser: one evaluation and a few directional derivatives per (sample, node)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.processes import Process
from gendyn.samplers.grids import uniform_lam
from gendyn.samplers.run import as_argument
from gendyn.samplers.statistics.moments import Moments, statistics_of
from gendyn.samplers.statistics.pairs import Pairs, Probes
from gendyn.samplers.statistics.tables import Origin, Statistics
from gendyn.tree import pytree

Report: TypeAlias = Callable[[int], None]


def estimate(
    process: Process,
    D: Callable[..., Any],
    data: Float[Array | np.ndarray, "samples *data"],
    key: PRNGKeyArray | None = None,
    *,
    num_times: int = 120,
    probes: Probes = 1,
    lam: Any = None,
    cond: Any = None,
    noise: Any = None,
    fresh: bool = False,
    batch: int | None = None,
    memory: int | None = None,
    report: Report = lambda done: None,
    origin: Origin | None = None,
) -> Statistics:
    """The statistics of any denoiser for DPM-Solver-v3: Zheng et al. 2023 (arXiv 2310.13268), eq. 11 and appendix C.

    At each node of lam, x = alpha data + sigma noise is drawn from the forward marginal, and one evaluation of D there
    is differentiated along the flow and along random signs v: E[v * (dD/dx v)] is the diagonal of the Jacobian
    (Hutchinson). The error falls like 1/sqrt(samples); their number matters far more than that of nodes or probes.
    About 1000 give a usable table, 4000 a good one. D must be differentiable in t: a network that rounds its noise
    label is not.

    Args:
        process: the path on which D is sampled. D: what will be sampled, guidance and all.
        data: clean examples, [samples, *data]: training data, or samples of the model.
        key: for noise and probes. Sample i has its own, whatever the batch.
        num_times: cells of the tables, equal in lam between the ends of `grids.uniform_lam(process)`.
        probes: random signs per sample, or "exact": one derivative per element, for small data.
        lam: the nodes themselves, rising, instead of `num_times`.
        cond: conditions of the samples, [samples] or a tree of such.
        noise: unit noise of the samples, [samples, *data], instead of the key's.
        fresh: draw new noise and probes at every node. By default a sample keeps its own, which makes the tables
            smooth in lam and dl/dlam far less noisy.
        batch: samples per call; by default 32 on a CPU, whose caches favour small ones, and 256 elsewhere.
        memory: bytes that one call may use; the batch is halved until it fits.
        report: called with the number of (sample, node) pairs done.
        origin: what to record about the model; the counts are filled in.

    Returns:
        tables in float64. Cost: samples x nodes evaluations of D, each with 1 + probes directional derivatives of about
        the same price (`origin.network_calls`, `origin.tangents`). Host memory: 200 bytes per node and element.

    Example:
        >>> import gendyn as gd, jax
        >>> process, key = gd.processes.EDM(), jax.random.key(0)
        >>> mixture = gd.oracles.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[0.01], [0.01]])
        >>> data = mixture.sample(key, 64)
        >>> estimate(process, mixture.denoiser(process), data, key, num_times=10).l.shape
        (11, 1)
    """
    lam = uniform_lam(process, num_times).lam if lam is None else np.asarray(lam, np.float64)
    nodes = moments(
        process,
        D,
        data,
        key,
        lam=lam,
        probes=probes,
        cond=cond,
        noise=noise,
        fresh=fresh,
        batch=batch,
        memory=memory,
        report=report,
    )
    return statistics_of(nodes, lam, process, counted(origin or Origin(), nodes, probes))


def counted(origin: Origin, nodes: Sequence[Moments], probes: Probes) -> Origin:
    """The record with its counts."""
    samples = nodes[0].count
    calls = samples * len(nodes)
    per_call = 1 + (nodes[0].jacobian.size if probes == "exact" else probes)
    return dataclasses.replace(
        origin, num_samples=samples, probes=probes, network_calls=calls, tangents=calls * per_call
    )


def moments(
    process: Process,
    D: Callable[..., Any],
    data: Float[Array | np.ndarray, "samples *data"],
    key: PRNGKeyArray | None = None,
    *,
    lam: Float[np.ndarray, " nodes"],
    probes: Probes = 1,
    cond: Any = None,
    noise: Any = None,
    fresh: bool = False,
    batch: int | None = None,
    memory: int | None = None,
    report: Report = lambda done: None,
    first: int = 0,
) -> list[Moments]:
    """What `estimate` accumulates, one `Moments` per node; those of several sets of samples may be merged.

    Args:
        first: position of data[0] in the whole set, so that parts of a set draw what the whole would.
    """
    levels = _levels(process, D, lam, jnp.promote_types(data.dtype, jnp.float32))
    samples = Pairs(
        data=data, cond=cond, noise=noise, key=key, probes=probes, fresh=fresh, first=first, law=process.noise
    )
    samples.require()
    D = as_argument(D)
    batch = min(batch or _usual_batch(), len(data))
    program, batch = _fitting(lambda size: (D, levels[0], *samples.draw(0, size, 0)), batch, memory)
    nodes: list[Moments | None] = [None] * len(levels)
    for start in range(0, len(data), batch):
        keep = min(batch, len(data) - start)
        drawn = samples.draw(start, batch, 0)
        for j, level in enumerate(levels):
            drawn = samples.draw(start, batch, j) if fresh else drawn
            values, jacobian = program(D, level, *drawn)
            new = Moments.of(np.asarray(values)[:, :keep], np.asarray(jacobian)[:keep])
            nodes[j] = new if (old := nodes[j]) is None else old.merge(new)
            report(start * len(levels) + keep * (j + 1))
    return [node for node in nodes if node is not None]


def relative_difference(a: Statistics, b: Statistics) -> dict[str, float]:
    """Root mean square of the difference of two tables over that of their mean, for l, s and b."""
    rms = lambda v: float(np.sqrt(np.mean(np.square(v))))
    pairs = {name: (getattr(a, name), getattr(b, name)) for name in ("l", "s", "b")}
    return {name: rms(u - v) / max(rms(u + v) / 2, np.finfo(float).tiny) for name, (u, v) in pairs.items()}


@pytree
class _Level:
    """One node: t, alpha, sigma, and their motion along the flow, dt/dlam and d(log alpha)/dlam."""

    t: Any
    alpha: Any
    sigma: Any
    dt: Any
    dlog_alpha: Any


def _levels(process: Process, D: Any, lam: np.ndarray, dtype: Any) -> list[_Level]:
    t = np.asarray(process.t_of_lam(lam))
    alpha, sigma = process.alpha(t), process.sigma(t)
    dlog_alpha, dlog_sigma = process.dalpha(t) / alpha, process.dsigma(t) / sigma
    dt = 1 / (dlog_alpha - dlog_sigma)
    singular = getattr(D, "singular", None)
    if singular is not None and (bad := t[singular(t)]).size:
        raise ValueError(
            f"this network's prediction does not determine the denoised at t = {bad[0]:g}; keep lam inside."
        )
    columns = (np.asarray(c, dtype) for c in (t, alpha, sigma, dt, dlog_alpha * dt))
    return [_Level(t=a, alpha=b, sigma=c, dt=d, dlog_alpha=e) for a, b, c, d, e in zip(*columns, strict=True)]


@jax.jit
def _evaluate(
    D: Any, level: _Level, data: Array, noise: Array, probes: Array, cond: Any
) -> tuple[Float[Array, "3 batch *data"], Float[Array, "batch *data"]]:
    """(x/alpha, D, dD/dlam along the flow) and alpha diag(dD/dx); D is evaluated once and its linear part shared."""
    x = level.alpha * data + level.sigma * noise
    denoised, push = jax.linearize(lambda x, t: D(x, t, cond).astype(x.dtype), x, level.t)
    dx = level.dlog_alpha * x - (x - level.alpha * denoised)
    moved = push(dx, level.dt)
    probes = jnp.broadcast_to(probes, (len(probes), *x.shape))
    pushed = jax.vmap(lambda v: push(v, jnp.zeros_like(level.t)))(probes)
    jacobian = level.alpha * (probes * pushed).sum(0)
    return jnp.stack([x / level.alpha, denoised, moved]), jacobian


def _usual_batch() -> int:
    return 32 if jax.default_backend() == "cpu" else 256


def _fitting(arguments: Callable[[int], Any], batch: int, memory: int | None) -> tuple[Callable[..., Any], int]:
    """The compiled evaluation with the largest batch, halving, that stays within `memory` bytes."""
    if memory is None:
        return _evaluate, batch
    program = _evaluate.lower(*arguments(batch)).compile()
    used = _bytes(program)
    if used <= memory:
        return program, batch
    if batch == 1:
        raise ValueError(f"one sample needs {used:,} bytes, memory= allows {memory:,}; allow more or use fewer probes.")
    return _fitting(arguments, batch // 2, memory)


def _bytes(program: Any) -> int:
    need = program.memory_analysis()
    sizes = ("temp_size_in_bytes", "argument_size_in_bytes", "output_size_in_bytes")
    return sum(int(getattr(need, size, 0)) for size in sizes)
