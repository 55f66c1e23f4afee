"""The one compiled loop that executes every plan, and the same rows in plain Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gendyn.samplers.plan import LEAVES, SamplerPlan

Observe: TypeAlias = Callable[[Array, Array, Array], Any]


def run(
    plan: SamplerPlan,
    D: Callable[..., Any],
    x_T: Float[Array, "batch *data"],
    key: PRNGKeyArray | None = None,
    noise: Any = None,
    cond: Any = None,
    observe: Observe | None = None,
) -> Any:
    """Execute a plan: one XLA program in which plan, D, x_T, noise and cond are arguments.

    Other weights, another solver of the same shape or, padded, another number of calls reuse the compiled program.
    The state is kept in float32 (float64 if x_T is) and D sees it in x_T's dtype.

    Args:
        plan: any plan; under `jax.vmap` a stack of plans.
        D: denoiser (x, t, cond) -> E[data | x], a pytree callable (see `gendyn.denoiser`). A plain function works,
            and compiles again for every new function object.
        x_T: the state at the plan's first node, [batch, *data], for example `process.sample_prior(key, shape)`.
        key: for stochastic plans: one typed key, row i drawing from `fold_in(key, i)`; or one key per example, [batch],
            so that an example's noise does not depend on its neighbours.
        noise: instead of a key, the unit draws themselves, [R, batch, *data]: row i owns draw i.
        cond: passed to D unchanged.
        observe: function of (row, x, denoised) called after every row; its results come back stacked over rows.
            Rows without a network call see the last denoised.

    Returns:
        the final state, or (state, observations) with `observe`.

    Raises:
        ValueError: a stochastic plan without key or noise; shapes that do not fit; a network whose prediction does
            not determine the denoised at one of the plan's times.

    Example:
        >>> import gendyn as gd, jax
        >>> process = gd.processes.EDM()
        >>> mixture = gd.oracles.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[0.01], [0.01]])
        >>> plan = gd.plan("ddim", process, nfe=10)
        >>> x_T = process.sample_prior(jax.random.key(0), (4, 1))
        >>> gd.samplers.run(plan, mixture.denoiser(process), x_T).shape
        (4, 1)
    """
    return _execute(*prepared(plan, D, x_T, key, noise), cond, observe)


def prepared(plan: SamplerPlan, D: Callable[..., Any], x_T: Any, key: Any, noise: Any) -> tuple[Any, ...]:
    """(plan, D, x_T, key, noise) checked, in the state's precision and as arguments of a compiled program."""
    x_T = jnp.asarray(x_T)
    _check(plan, D, x_T.shape, key, noise)
    dtype = jnp.promote_types(x_T.dtype, jnp.float32)
    noise = None if plan.draws == 0 or noise is None else jnp.asarray(noise, dtype)
    key = key if plan.draws and noise is None else None
    return _cast(plan, dtype), as_argument(D), x_T, key, noise


def as_argument(D: Callable[..., Any]) -> Callable[..., Any]:
    """A denoiser as an argument of a compiled program: a pytree as it is, a plain function made one."""
    leaves = jax.tree.leaves(D)
    return jax.tree_util.Partial(D) if len(leaves) == 1 and leaves[0] is D else D


def _cast(plan: SamplerPlan, dtype: Any) -> SamplerPlan:
    """Host float64 -> the state's precision, once; the description stays behind so that it cannot cause compiles."""

    def cast(value: Any) -> Any:
        if isinstance(value, jax.Array):
            return value if value.dtype == bool else value.astype(dtype)
        return value if value.dtype == bool else np.asarray(value, dtype)

    return dataclasses.replace(jax.tree.map(cast, plan), info=None)


def _check(plan: SamplerPlan, D: Any, shape: tuple[int, ...], key: Any, noise: Any) -> None:
    if plan.draws and key is None and noise is None:
        raise ValueError("this plan draws noise: pass key=jax.random.key(...) or noise= with one unit draw per row.")
    if plan.draws and noise is not None and not callable(noise) and np.shape(noise) != (plan.rows, *shape):
        raise ValueError(f"noise must have shape {(plan.rows, *shape)} (rows, *x_T.shape); got {np.shape(noise)}.")
    returns = getattr(D, "field", None)
    if plan.info is not None and isinstance(returns, str) and returns != plan.info.field:
        raise ValueError(
            f"{plan.name} calls what returns a {plan.info.field}, but {type(D).__name__} returns a {returns}; lists in "
            "gendyn.samplers say what goes together: SAMPLERS (denoised), FLOW_SAMPLERS (velocity), MAPS (jump)."
        )
    if plan.data_shape and plan.data_shape != tuple(shape[1:]):
        raise ValueError(f"this plan's coefficients are for data of shape {plan.data_shape}; x_T is {tuple(shape)}.")
    if not isinstance(plan.t, jax.Array):
        refuse_singular(D, np.asarray(plan.t)[np.asarray(plan.call)])


def refuse_singular(D: Any, times: np.ndarray) -> None:
    """Refuse, in words, times at which a wrapped network does not determine the denoised."""
    singular = getattr(D, "singular", None)
    bad = times[:0] if singular is None else times[singular(times)]
    if len(bad):
        raise ValueError(
            f"this network's prediction does not determine the denoised at t = {bad[0]:g} (for example eps where "
            "alpha = 0, an infinite noise label, v and eta where gamma' is infinite): start the grid inside the clock "
            "with t_start= (an interpolant's run: --margin), or use a network that predicts velocity or denoised."
        )


def _dot(coefficients: Any, window: tuple[Array, ...]) -> Any:
    return sum((c * w for c, w in zip(coefficients, window, strict=True)), start=0.0)


def _draw(key: Any, row: Any, x: Array) -> Array:
    if key.ndim == 0:
        return jax.random.normal(jax.random.fold_in(key, row), x.shape, x.dtype)
    keys = jax.vmap(jax.random.fold_in, (0, None))(key, row)
    return jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)


@partial(jax.jit, static_argnames=("observe",))
def _execute(plan: SamplerPlan, D: Any, x_T: Array, key: Any, noise: Any, cond: Any, observe: Observe | None) -> Any:
    return scan_rows(plan, lambda y, t, memory, mark: (D(y, t, cond), memory), x_T, key, noise, observe)


def scan_rows(
    plan: SamplerPlan,
    call: Callable[..., tuple[Array, Any]],
    x_T: Array,
    key: Any,
    noise: Any,
    observe: Observe | None,
    memory: Any = (),
    marks: Any = None,
) -> Any:
    """The loop over rows, for executors: call(y, t, memory, mark) -> (denoised, memory) in the place of D(y, t, cond).

    Args:
        memory: what the first call is given; every call hands its own on to the next.
        marks: [R, ...], one per row, or None.
    """
    dtype = jnp.promote_types(x_T.dtype, jnp.float32)
    x = x_T.astype(dtype)
    zeros = jnp.zeros_like(x)

    def step(carry: Any, inputs: Any) -> Any:
        x, history, draws, denoised, memory = carry
        index, row, noise_row, mark = inputs
        if plan.draws:
            new = _draw(key, index, x) if noise_row is None else noise_row
            draws = (new, *draws[:-1])
        y = row.ex * x + _dot(row.em, history) + _dot(row.en, draws) + row.ec

        def evaluate(history: Any, denoised: Any, memory: Any) -> Any:
            output, memory = call(y.astype(x_T.dtype), row.t, memory, mark)
            output = output.astype(dtype)
            remembered = (row.oy * y + row.om * output, *history[:-1])
            return remembered, None if denoised is None else output, memory

        history, denoised, memory = jax.lax.cond(
            row.call, evaluate, lambda *unchanged: unchanged, history, denoised, memory
        )
        x = row.sx * x + _dot(row.sm, history) + _dot(row.sn, draws) + row.sc
        return (x, history, draws, denoised, memory), observe(index, x, denoised) if observe else None

    carry: Any = (x, (zeros,) * plan.window, (zeros,) * plan.draws, zeros if observe else None, memory)
    (x, *_), observed = jax.lax.scan(step, carry, (jnp.arange(plan.rows), plan, noise, marks))
    x = x.astype(x_T.dtype)
    return (x, observed) if observe else x


def run_eager(
    plan: SamplerPlan,
    D: Callable[..., Any],
    x_T: Any,
    key: PRNGKeyArray | None = None,
    noise: Any = None,
    cond: Any = None,
    observe: Callable[[int, Any, Any], Any] | None = None,
) -> Any:
    """The same rows in plain Python: numpy, jax or torch arrays in, the same kind out; nothing is compiled.

    Drives models of other frameworks unported, and is the float64 reference of the tests. D is called as
    D(x, t) with t a Python float, or D(x, t, cond) if cond is given.

    Args:
        noise: for stochastic plans, indexable by row (`noise[i]` like x_T) or a function of the row; with jax arrays a
            `key` does as in `run`.

    Example:
        >>> import numpy as np, gendyn as gd
        >>> plan = gd.plan("ddim", gd.processes.EDM(), nfe=5)
        >>> run_eager(plan, lambda x, t: 0 * x, np.ones((2, 3))).tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    _check(plan, D, tuple(x_T.shape), key, noise)
    coefficient = _coefficient_like(x_T)
    rows = {name: np.asarray(getattr(plan, name)) for name in LEAVES}
    x, history, draws, denoised = x_T, [x_T * 0.0] * plan.window, [x_T * 0.0] * plan.draws, x_T * 0.0
    observed = []

    def combine(i: int, side: str) -> Any:
        total = coefficient(rows[side + "x"][i]) * x
        for name, window in ((side + "m", history), (side + "n", draws)):
            for c, w in zip(rows[name][i], window, strict=True):
                if c.any():
                    total = total + coefficient(c) * w
        constant = rows[side + "c"][i]
        return total + coefficient(constant) if constant.any() else total

    for i in range(plan.rows):
        if plan.draws:
            new = _draw(key, i, x) if noise is None else (noise(i) if callable(noise) else noise[i])
            draws = [new, *draws[:-1]]
        if rows["call"][i]:
            y = combine(i, "e")
            t = float(rows["t"][i])
            denoised = D(y, t) if cond is None else D(y, t, cond)
            memory = coefficient(rows["om"][i]) * denoised
            if rows["oy"][i].any():
                memory = memory + coefficient(rows["oy"][i]) * y
            history = [memory, *history[:-1]]
        x = combine(i, "s")
        if observe:
            observed.append(observe(i, x, denoised))
    return (x, observed) if observe else x


def _coefficient_like(x: Any) -> Callable[[np.ndarray], Any]:
    """Scalars as Python floats (every framework keeps its dtype), per-element coefficients in x's own array type."""
    if hasattr(x, "new_tensor"):
        return lambda c: x.new_tensor(c) if c.ndim else float(c)
    if isinstance(x, jax.Array):
        return lambda c: jnp.asarray(c, x.dtype) if c.ndim else float(c)
    return lambda c: c if c.ndim else float(c)
