"""Counted operations are those of the layers, as they are written in any textbook."""

from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

import gendyn as gd
from gendyn.data import digits
from gendyn.training import costs


def experiment(network, **changes):
    return gd.training.Experiment(
        **{
            "network": network,
            "objective": gd.objectives.Denoising(process=gd.processes.EDM()),
            "source": partial(digits, "train"),
            "shape": (8, 8, 1),
            "batch_size": 4,
            "steps": 1,
            "optimizer": gd.training.adamw(1e-3),
        }
        | changes
    )


def dense(sizes):
    """Layers without biases on flattened images; the label is not used."""
    shapes = {str(i): pair for i, pair in enumerate(pairwise(sizes))}

    def apply(params, x, label, cond):
        h = x.reshape(len(x), -1)
        for name in shapes:
            h = jnp.tanh(h @ params[name])
        return h.reshape(x.shape)

    return gd.networks.Network(init=lambda key: {n: jnp.ones(s) for n, s in shapes.items()}, apply=apply)


@pytest.mark.parametrize(
    ("kind", "peak"), [("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("NVIDIA H200", 989e12), ("cpu", None)]
)
def test_peaks_go_by_the_longest_name_that_fits(kind, peak):
    assert costs.peak_flops(SimpleNamespace(device_kind=kind)) == peak


def test_dense_layers_forward_and_backward():
    """2 in out per example forward; backward twice that, but for the input's gradient, which nobody needs."""
    made = experiment(dense((64, 32, 64)))
    assert costs.call_flops(made) == 2 * (64 * 32 + 32 * 64)
    assert costs.step_flops(made) == 4 * 2 * (3 * (64 * 32 + 32 * 64) - 64 * 32)


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (2, 1), (1, 2)])
def test_convolutions(groups, stride):
    """2 k k (inputs of a group) outputs per pixel of the output."""
    x, kernel = jnp.ones((3, 8, 8, 4)), jnp.ones((3, 3, 4 // groups, 6))
    conv = partial(
        jax.lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    assert costs.flops(conv, x, kernel) == 2 * 9 * (4 // groups) * 6 * 3 * (8 // stride) ** 2


def test_loops_and_branches():
    """Scans count every turn, also nested and rematerialised; conditionals their dearest branch."""
    a = jnp.ones((2, 2))
    inner = lambda x, _: (jax.checkpoint(lambda y: y @ a)(x), None)
    outer = lambda x, _: (jax.lax.scan(inner, x, length=3)[0], None)
    assert costs.flops(lambda x: jax.lax.scan(outer, x, length=5)[0], a) == 15 * 16
    assert costs.flops(lambda p, x: jax.lax.cond(p, lambda x: x @ a @ a, lambda x: x @ a, x), True, a) == 32


def test_a_transformer_costs_what_its_parts_do():
    """Kernels on every token, conditioning once, and attention's two products."""
    tokens, width, depth = 16, 32, 2
    network = gd.networks.functional(partial(gd.networks.DiT, (8, 8, 1), patch=2, width=width, depth=depth, heads=2))
    shapes = dict(gd.tree.paths(jax.eval_shape(network.init, jax.random.key(0))))
    kernels = {path: leaf.size for path, leaf in shapes.items() if path.endswith("kernel")}
    once = sum(size for path, size in kernels.items() if "modulation" in path or "conditioning" in path)
    attention = depth * 2 * tokens**2 * width
    expected = 2 * (once + tokens * (sum(kernels.values()) - once) + attention)
    assert costs.call_flops(experiment(network)) == expected


def test_memory_of_a_step_grows_with_the_batch():
    small, large = (costs.step_memory(experiment(dense((64, 256, 64)), batch_size=n)) for n in (8, 512))
    hidden = 504 * 256 * 4  # bytes of the hidden layer's activations of the examples between
    assert hidden < large - small < 20 * hidden
