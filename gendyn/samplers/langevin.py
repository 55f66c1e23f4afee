"""Langevin corrections: rows with tabulated steps, and the published one, whose step follows the score's norm.

At a fixed noise level, Langevin dynamics dx = score dtau + sqrt(2) dW leaves the marginal alone and forgets errors: it
pulls x towards alpha D and replaces the noise that is lost. Over a time tau = q sigma^2, exactly for a constant D,

    x <- e^{-q} x + (1 - e^{-q}) alpha D + sigma sqrt(1 - e^{-2 q}) z.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.processes import Process
from gendyn.samplers.ddim import ddim
from gendyn.samplers.grids import Grid
from gendyn.samplers.levels import Step, steps
from gendyn.samplers.plan import Row, SamplerPlan, assemble
from gendyn.samplers.run import as_argument, run
from gendyn.samplers.splitting import Solver, crossing, rows_of, silent


def langevin(
    process: Process, grid: Grid, *, solver: Solver = ddim, rate: float | Sequence[float] = 0.5
) -> SamplerPlan:
    """Predictor-corrector with tabulated steps: a step of a deterministic solver, then a Langevin correction.

    The correction has size q = rate h. In proportion to the step in lam, it makes the sampler converge, at order 1, to
    the reverse SDE of noise level eta = rate: a corrector is that SDE, split. (A size that does not shrink with the
    step keeps a bias of its own order.) Its draws follow the clock of that SDE (`exponential_sde`).

    One call more than the solver per step; no correction after a step out of pure noise, or at a clean node.

    Args:
        solver: (process, grid of one step) -> deterministic plan, as in `ancestral_split`.
        rate: q per unit of lam, one number or one per step of the grid.

    Example:
        >>> import gendyn as gd
        >>> langevin(gd.processes.EDM(), gd.samplers.grids.karras(gd.processes.EDM(), n=5)).nfe
        9
    """
    taken = list(steps(process, grid))
    rates = np.broadcast_to(np.asarray(rate, np.float64), (len(taken),))
    if not (rates > 0).all():
        raise ValueError(f"rate must be positive (Langevin time per unit of lam); got {rate}.")
    plans = [crossing(process, solver, step) for step in taken]
    rows: list[Row] = []
    tau = None
    for step, plan, speed in zip(taken, plans, rates):
        rows += [silent(row, step) for row in rows_of(plan)]
        if np.isfinite(step.h):
            tau = speed * step.clock[0] if tau is None else tau
            rows.append(_correction(step, speed * step.h, tau))
            tau += speed * step.h
    return assemble(process, rows, name=f"{plans[-1].name}_langevin", order=1)


def _correction(step: Step, q: Any, tau: Any) -> Row:
    """A correction of size q where the step ends; its noise owns the interval of that length after tau on the clock."""
    return Row(
        t=step.t_e,
        sx=np.exp(-q),
        sm=(-np.expm1(-q) * step.alpha_e,),
        sn=(step.sigma_e * np.sqrt(-np.expm1(-2 * q)),),
        clock=(tau, tau + q),
    )


def run_with_langevin(
    plan: SamplerPlan,
    D: Callable[..., Any],
    x_T: Float[Array, "batch *data"],
    key: PRNGKeyArray,
    *,
    snr: float = 0.16,
    repeats: int = 1,
    cond: Any = None,
) -> Float[Array, "batch *data"]:
    """The published predictor-corrector: Song et al. 2021 (arXiv 2011.13456), algorithms 2 to 5.

        x <- x + eps score + sqrt(2 eps) z,      eps = 2 (snr |z|/|score|)^2,

    `repeats` times at every node before the plan's row leaves it. Not a plan, because the step size is known only when
    the score is; norms are averaged over the batch, as published, so that an example depends on its neighbours. (The
    published code for VP also multiplies eps by 1 - beta, between 0.98 and 1.) Where the score has its usual norm
    sqrt(d)/sigma, eps is 2 snr^2 sigma^2: the correction of `langevin` with q = 2 snr^2.

    Args:
        plan: the predictor, one call and one row per step: ancestral, ddim(eta=1), euler_maruyama, ...
        snr: the ratio r of the paper: 0.16 for VE on CIFAR-10, 0.01 to 0.2 elsewhere.
        repeats: corrections per node (M). Calls: (repeats + 1) plan.nfe.

    Raises:
        ValueError: a plan that remembers past outputs or has rows without a call.

    Example:
        >>> import gendyn as gd, jax
        >>> process = gd.processes.VE()
        >>> D = gd.oracles.GaussianMixture([1.0], [[0.0]], [[1.0]]).denoiser(process)
        >>> x_T = process.sample_prior(jax.random.key(0), (8, 1))
        >>> run_with_langevin(gd.plan("ancestral", process, nfe=6), D, x_T, jax.random.key(1)).shape
        (8, 1)
    """
    if not np.all(plan.call) or plan.window > 1 or plan.draws > 1:
        raise ValueError(
            f"the predictor must have one row and one call per step, without memory; {plan.name} has {plan.rows} rows, "
            f"{plan.nfe} calls and a window of {plan.window}: use ancestral, ddim or euler_maruyama, or put "
            "corrections in a plan with gendyn.samplers.langevin."
        )
    if not plan.process.gaussian_noise:
        raise ValueError(
            f"the noise of {plan.process} is not Gaussian, so Langevin corrections have no score; run the plan alone."
        )
    levels = (plan.process.alpha(plan.t), plan.process.sigma(plan.t))
    return _corrected(dataclasses.replace(plan, info=None), levels, as_argument(D), x_T, key, snr, cond, repeats)


@partial(jax.jit, static_argnames="repeats")
def _corrected(
    plan: SamplerPlan, levels: Any, D: Any, x_T: Array, key: PRNGKeyArray, snr: Any, cond: Any, repeats: int
) -> Array:
    def correct(i: Any, carry: Any) -> Any:
        x, key, row, (alpha, sigma) = carry
        score = (alpha * D(x, row.t[0], cond) - x) / sigma**2
        z = jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
        eps = 2 * (snr * _norm(z) / _norm(score)) ** 2
        return (x + eps * score + jnp.sqrt(2 * eps) * z).astype(x.dtype), key, row, (alpha, sigma)

    def step(x: Array, inputs: Any) -> Any:
        index, row, level = inputs
        corrections, predictor = jax.random.split(jax.random.fold_in(key, index))
        x, *_ = jax.lax.fori_loop(0, repeats, correct, (x, corrections, row, level))
        return run(row, D, x, predictor, cond=cond), None

    # One plan of a single row for every step; levels in the state's precision, so that the state keeps it.
    rows = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, None], plan)
    levels = jax.tree.map(lambda leaf: jnp.asarray(leaf, x_T.dtype), levels)
    x, _ = jax.lax.scan(step, x_T, (jnp.arange(plan.rows), rows, levels))
    return x


def _norm(x: Array) -> Array:
    """The mean over the batch of the examples' norms."""
    return jnp.sqrt((x.reshape(x.shape[0], -1) ** 2).sum(-1)).mean()
