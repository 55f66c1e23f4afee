"""Encoder reuse: features of a few calls, decoded at all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from gendyn.samplers.plan import SamplerPlan
from gendyn.samplers.run import Observe, prepared, scan_rows


def run_reusing_encoder(
    plan: SamplerPlan,
    D: Callable[..., Any],
    x_T: Float[Array, "batch *data"],
    fresh: Iterable[int],
    key: PRNGKeyArray | None = None,
    noise: Any = None,
    cond: Any = None,
    observe: Observe | None = None,
) -> Any:
    """Execute a plan whose network evaluates its encoder at some calls only; the others decode the last features.

        features <- encode(x, t)                 at the calls in `fresh`, the key steps
        D        =  decode(features, x, t)       at every call, with the time of that call

    A call that is not fresh sees x in the preconditioning alone: its network is told the present time and the past
    features. An approximation of `run`, and with every call fresh the same. The paper's further step, adding a
    little of x_T to late states, is not made.

    Args:
        plan: any plan, on the host (under `jax.vmap` over plans every row would evaluate the encoder anyway).
        x_T, key, noise, cond, observe: as in `run`.
        D: denoiser of a network in two halves: one of `gd.denoiser` on UNet or EDMUNet, also guided or with scaled
            skip connections.
        fresh: numbers of the calls that evaluate the encoder, the first one, 0, among them: `range(0, plan.nfe, 3)`.
            The paper's choice for 50 calls of DDIM is (0, 1, 2, 3, 5, 10, 15, 25, 35).

    Returns:
        As `run`. Cost: plan.nfe decoders and one encoder per fresh call (`gd.training.costs.sampling_flops` counts
        both); the features of one call are kept.

    Raises:
        ValueError: a denoiser that does not come in two halves; calls that the plan does not make; what `run` raises.

    Example:
        >>> import gendyn as gd, jax
        >>> from functools import partial
        >>> make = partial(gd.networks.UNet, 1, 1, width=4, multipliers=(1,), blocks=1, attention=())
        >>> network, process = gd.networks.functional(make), gd.processes.EDM()
        >>> plan, x_T = gd.plan("ddim", process, nfe=6), process.sample_prior(jax.random.key(1), (2, 4, 1))
        >>> def sample(params):
        ...     D = gd.denoiser(network.apply, params, process, "denoised")
        ...     return run_reusing_encoder(plan, D, x_T, fresh=range(0, 6, 2))
        >>> jax.eval_shape(lambda key: sample(network.init(key)), jax.random.key(0)).shape
        (2, 4, 1)

    Li et al. 2023, "Faster Diffusion: Rethinking the Role of the Encoder for Diffusion Model Inference",
    arXiv:2312.09608.
    """
    if not (hasattr(D, "encode") and hasattr(D, "decode")):
        raise ValueError(
            "the encoder is reused by denoisers that have encode(x, t, cond) and decode(encoded, x, t, cond), as those "
            f"of gd.denoiser have; got {type(D).__name__}."
        )
    marks = _fresh_rows(plan, fresh)
    return _execute(*prepared(plan, D, x_T, key, noise), cond, marks, observe)


def _fresh_rows(plan: SamplerPlan, fresh: Iterable[int]) -> Bool[np.ndarray, " rows"]:
    """Which rows evaluate the encoder, from the numbers of the calls."""
    calls = np.flatnonzero(plan.call)
    numbers = sorted(set(fresh))
    if not numbers or numbers[0] != 0 or numbers[-1] >= len(calls):
        raise ValueError(
            f"fresh= are numbers of calls, 0 to {len(calls) - 1} for this plan, and the first call, 0, is one of them; "
            f"got {numbers}."
        )
    rows = np.zeros(plan.rows, bool)
    rows[calls[numbers]] = True
    return rows


@partial(jax.jit, static_argnames=("observe",))
def _execute(
    plan: SamplerPlan, D: Any, x_T: Array, key: Any, noise: Any, cond: Any, marks: Any, observe: Observe | None
) -> Any:
    def call(y: Array, t: Any, features: Any, fresh: Any) -> tuple[Array, Any]:
        features = jax.lax.cond(fresh, lambda past: D.encode(y, t, cond), lambda past: past, features)
        return D.decode(features, y, t, cond), features

    shapes = jax.eval_shape(lambda: D.encode(x_T, jnp.asarray(plan.t)[0], cond))
    nothing_yet = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return scan_rows(plan, call, x_T, key, noise, observe, nothing_yet, marks)
