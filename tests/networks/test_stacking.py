"""Stacked blocks are the same network in another layout, of a smaller program."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn.distributed import ShardingTable, abstract_mesh
from gendyn.networks import MLP, DiT, EDMUNet, UNet, functional, initialise, stack_blocks, unstack_blocks
from gendyn.networks.layers import POLICIES
from gendyn.parametrization import table
from gendyn.tree import paths

X, TIME = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 1)), jnp.float32), jnp.array([0.2, -0.5])
COND = jnp.array([1, 3])
SIZES = {"patch": 2, "width": 8, "heads": 2, "num_classes": 3}


@cache
def network(scan, depth=2, remat=False, dropout=0.2):
    return functional(partial(DiT, (8, 1), depth=depth, scan=scan, remat=remat, dropout=dropout, **SIZES))


@cache
def params():
    """Of the unrolled network, every entry of order 0.3."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(network(False).init, jax.random.key(0)))
    rng = np.random.default_rng(1)
    return structure.unflatten(jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32) for leaf in leaves)


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))


def loss(scan, remat=False):
    def mean(params):
        return jnp.mean((network(scan, remat=remat).train(params, X, TIME, COND, jax.random.key(5)) - X) ** 2)

    return jax.jit(jax.value_and_grad(mean))


@cache
def gradient():
    return loss(False)(params())


def test_stacking_and_back_is_the_identity():
    assert same(unstack_blocks(stack_blocks(params())), params())
    shapes = jax.eval_shape(network(True).init, jax.random.key(0))
    assert {path: leaf.shape for path, leaf in paths(shapes)} == {
        path: leaf.shape for path, leaf in paths(stack_blocks(params()))
    }


def test_both_are_drawn_alike():
    drawn = [initialise(network(scan), jax.random.key(3)) for scan in (False, True)]
    assert same(stack_blocks(drawn[0]), drawn[1])


@pytest.mark.parametrize("remat", ["dots", *(pytest.param(plain, marks=pytest.mark.slow) for plain in (False, True))])
def test_outputs_and_gradients_are_those_of_the_unrolled_network(remat):
    """In training mode, with dropout drawn from the same keys."""
    value, grads = gradient()
    again, regrads = loss(True, remat)(stack_blocks(params()))
    np.testing.assert_allclose(again, value, rtol=1e-5)
    largest = max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(grads))
    errors = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), regrads, stack_blocks(grads))
    assert max(jax.tree.leaves(errors)) < 1e-5 * largest


def test_the_program_of_a_scan_does_not_grow_with_the_depth():
    def operations(scan, depth):
        net = network(scan, depth)
        shapes = jax.eval_shape(net.init, jax.random.key(0))
        return len(re.findall(r" stablehlo\.", jax.jit(net.apply).lower(shapes, X, TIME, COND).as_text()))

    assert operations(True, 6) == operations(True, 2) < operations(False, 2) < operations(False, 6) / 2


@pytest.mark.slow
def test_recomputing_needs_less_memory():
    """Bytes beside arguments and results, of the gradient of four blocks."""

    def memory(remat):
        net = network(True, 4, remat, dropout=0.0)
        mean = lambda params: jnp.mean(net.apply(params, X, TIME, COND) ** 2)
        lowered = jax.jit(jax.grad(mean)).lower(jax.eval_shape(net.init, jax.random.key(0)))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert memory(True) < 0.7 * memory(False)


def test_the_parameter_table_sees_the_depth_and_no_width_in_it():
    """Under CompleteP, from one block to two and twice the width."""
    make = lambda width, depth: functional(partial(DiT, (8, 1), depth=depth, scan=True, **SIZES | {"width": width}))
    rows = table(make, base={"width": 8, "depth": 1}, target={"width": 16, "depth": 2})
    assert rows.branch_scale == 0.5
    roles = dict(paths(network(True).roles))
    for row in rows.rows:
        assert row.m_depth == (2.0 if row.path.startswith("blocks/") else 1.0), row.path
        assert row.kind == roles[row.path]
        assert (row.m_in, row.m_out) == {"hidden": (2.0, 2.0), "output": (2.0, 1.0)}.get(row.kind, (1.0, row.m_out))


def test_layers_are_cut_over_no_device():
    net = network(True)
    rows = ShardingTable.of(jax.eval_shape(net.init, jax.random.key(0)), net.axes, abstract_mesh(fsdp=2, tensor=2)).rows
    specs = {row.path: row.spec for row in rows}
    assert specs["blocks/hidden/kernel"] == (None, "fsdp", "tensor")
    assert specs["blocks/hidden/bias"] == (None, None)


@pytest.mark.parametrize("make", [partial(MLP, 2), partial(DiT, (8, 1)), UNet, EDMUNet])
def test_unknown_policies_are_refused(make):
    with pytest.raises(ValueError, match=r"remat is True, False or one of nothing, dots, .*; got 'dot'"):
        functional(partial(make, remat="dot"))
    assert all(hasattr(jax.checkpoint_policies, f"{name}_saveable") for name in POLICIES)
