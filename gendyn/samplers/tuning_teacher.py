"""What a tuned plan is compared with: the fine solution of the same starts and the same end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from gendyn.samplers.adaptive import default_ends
from gendyn.samplers.grids import explicit
from gendyn.samplers.plan import SamplerPlan
from gendyn.samplers.run import run
from gendyn.samplers.tuning_free import Base
from gendyn.samplers.unipc import unipc
from gendyn.tree import pytree

PURE_NOISE = 1e-4
"""alpha/sigma where a teacher's first step out of pure noise ends; over it D is the data's mean to that precision."""


@pytree
class Pairs:
    """Starts, their conditions, and where the teacher takes them; all [n, ...]."""

    x_T: Any
    cond: Any
    target: Any

    def __len__(self) -> int:
        return len(self.x_T)

    def take(self, index: Any) -> Pairs:
        return jax.tree.map(lambda leaf: leaf[index], self)

    def batches(self, most: int) -> Iterator[Pairs]:
        """In order, as few as possible and as even as possible."""
        count = -(-len(self) // most)
        size = -(-len(self) // count)
        return (self.take(slice(i, i + size)) for i in range(0, len(self), size))


def teacher(plan: SamplerPlan, calls: int = 200) -> SamplerPlan:
    """A fine plan between the same ends: UniPC of third order, uniform in lam, and denoised at the end if `plan` is.

    Out of pure noise it takes one step of DDIM, exact there up to PURE_NOISE; a clean end is approached to the last
    time of the process's interval, and then denoised.

    Example:
        >>> import gendyn as gd
        >>> teacher(gd.plan("ddim", gd.processes.EDM(), nfe=5), calls=100).nfe
        100
    """
    base = Base(start=plan, example=())
    process, clean = plan.process, not np.isfinite(base.end)
    first, noisy = base.lam[0], not np.isfinite(base.lam[0])
    end = process.lam(np.float64(default_ends(process)[1])) if clean else base.end
    inner = np.linspace(np.log(PURE_NOISE) if noisy else first, end, calls + 1 - noisy - clean)
    times = np.asarray(process.t_of_lam(inner))
    times = np.concatenate([plan.t[:1], times if noisy else times[1:]])
    return unipc(process, explicit(process, times=times, final_zero=clean), order=3, lower_order_final=False)


def pairs(
    plan: SamplerPlan,
    D: Callable[..., Any],
    key: PRNGKeyArray,
    *,
    shape: tuple[int, ...],
    num: int,
    cond: Any = None,
    calls: int = 200,
    batch: int = 1024,
) -> Pairs:
    """Starts of a plan drawn from the prior, and where `teacher` takes them.

    Args:
        cond: conditions, used in turn.
    """
    process = plan.process
    x_T = process.sample_prior(key, (num, *shape), t=plan.t[0])
    if cond is not None:
        cond = jax.tree.map(lambda leaf: jnp.asarray(leaf)[np.arange(num) % len(leaf)], cond)
    fine, starts = teacher(plan, calls), Pairs(x_T=x_T, cond=cond, target=x_T)
    ends = [run(fine, D, some.x_T, cond=some.cond) for some in starts.batches(batch)]
    return dataclasses.replace(starts, target=jnp.concatenate(ends))


def errors(plan: SamplerPlan, D: Callable[..., Any], compared: Pairs, batch: int = 1024) -> np.ndarray:
    """Root-mean-square distance of a plan from the teacher, per start, [n]."""
    ends = [np.asarray(run(plan, D, some.x_T, cond=some.cond)) for some in compared.batches(batch)]
    apart = np.concatenate(ends).astype(np.float64) - np.asarray(compared.target)
    return np.sqrt(np.mean(apart.reshape(len(compared), -1) ** 2, axis=1))
