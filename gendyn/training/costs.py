"""What a call or a training step costs, counted on its computation before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gendyn.jaxprs import parts
from gendyn.training.experiment import Experiment
from gendyn.training.step import abstract_state, needs, train_step
from gendyn.training.trials import network_inputs


def flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Floating-point operations of all products and convolutions of function(*arguments), on shapes alone.

    Twice the multiply-adds, which is what utilisation (MFU) is measured against; elementwise work is not counted. The
    body of a scan counts as often as it runs, a conditional as its dearest branch, and a loop whose end is decided
    while it runs counts once.

    >>> flops(lambda a, b: jnp.tanh(a @ b), jnp.ones((3, 4)), jnp.ones((4, 5)))
    120
    >>> flops(lambda a: jax.lax.scan(lambda x, _: (x @ a, None), a, length=10)[0], jnp.ones((2, 2)))
    160
    """
    return _of(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        summed = math.prod(equation.invars[0].aval.shape[d] for d in contracted)
        return 2 * summed * equation.outvars[0].aval.size
    if name == "conv_general_dilated":
        kernel, numbers = equation.invars[1].aval.shape, params["dimension_numbers"]
        _, inputs, *spatial = numbers.rhs_spec  # the kernel's inputs are those of one group already
        summed = kernel[inputs] * math.prod(kernel[d] for d in spatial)
        return 2 * summed * equation.outvars[0].aval.size
    inside = [_of(each) for each in parts(equation)]
    if name == "cond":
        return max(inside, default=0)
    return sum(inside) * (params["length"] if name == "scan" else 1)


def call_flops(experiment: Experiment) -> int:
    """Of one network call for one example, in evaluation mode."""
    inputs = jax.eval_shape(partial(network_inputs, experiment), abstract_batch(experiment, 1))
    return flops(experiment.network.apply, abstract_state(experiment).params, *inputs)


def sampling_flops(plan: Any, D: Any, x_T: Any, cond: Any = None, fresh: Iterable[int] | None = None) -> int:
    """Of the network calls of a plan, `samplers.run`, or with `fresh` of `samplers.run_reusing_encoder`.

    The executors' own programs do not say: a call that may be left out counts there as if it never were.

    >>> import gendyn as gd
    >>> process = gd.processes.EDM()
    >>> D = gd.denoiser(lambda params, x, label, cond: x @ params, jnp.ones((2, 2)), process, "denoised")
    >>> sampling_flops(gd.plan("ddim", process, nfe=5), D, jnp.ones((1, 2)))
    40
    """
    t = jax.ShapeDtypeStruct((), jnp.promote_types(x_T.dtype, jnp.float32))
    if fresh is None:
        return plan.nfe * flops(D, x_T, t, cond)
    encoded = jax.eval_shape(D.encode, x_T, t, cond)
    return len(set(fresh)) * flops(D.encode, x_T, t, cond) + plan.nfe * flops(D.decode, encoded, x_T, t, cond)


def step_flops(experiment: Experiment) -> int:
    """Of one optimiser step on the whole batch, gradients included."""
    batch = abstract_batch(experiment, experiment.batch_size)
    return flops(lambda state, batch: train_step(experiment, state, batch), abstract_state(experiment), batch)


def step_memory(experiment: Experiment) -> int:
    """Bytes that a step on one device needs beside its state and batch: activations and gradients. This compiles it."""
    batch = abstract_batch(experiment, experiment.batch_size)
    step = jax.jit(lambda state, batch: train_step(experiment, state, batch), donate_argnums=0)
    memory = step.lower(abstract_state(experiment), batch).compile().memory_analysis()
    if memory is None:
        raise ValueError("this backend does not say how much memory a program needs.")
    return int(memory.temp_size_in_bytes)


PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}
"""Start of a device's kind, as jax calls it -> FLOPs per second of its bfloat16 products without sparsity, from the
makers' data sheets."""


def peak_flops(device: jax.Device) -> float | None:
    """Of one device, per second; None where it is not known, as on a CPU."""
    known = [kind for kind in PEAKS if device.device_kind.startswith(kind)]
    return PEAKS[max(known, key=len)] if known else None


def utilisation(experiment: Experiment, devices: Sequence[jax.Device]) -> float | None:
    """MFU per example and second: model FLOPs of a step for one example, over the devices' peak; None without peaks.

    Times the examples per second it is the share of the peak that the model's own products use (Chowdhery et al. 2022,
    arXiv:2204.02311): recomputation does not count. Tracing a step costs a second or so, so that it is done only where
    a peak is known.
    """
    peaks = [peak_flops(device) for device in devices]
    if None in peaks:
        return None
    return step_flops(experiment) / experiment.batch_size / sum(peak for peak in peaks if peak)


def abstract_batch(experiment: Experiment, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch; what the objective needs beside data has the data's shape."""
    data = jax.ShapeDtypeStruct((size, *experiment.shape), jnp.float32)
    labels = {"label": jax.ShapeDtypeStruct((size,), jnp.int32)} if experiment.num_classes is not None else {}
    told = {
        name: jax.ShapeDtypeStruct((size, *kind.shape(experiment.shape)), kind.dtype)
        for name, kind in experiment.conditions.items()
    }
    return {"data": data, **labels, **told, **{name: data for name in needs(experiment) if name != "step"}}
