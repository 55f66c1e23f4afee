"""Modules become pure functions and nested dicts; foreign functions are networks too."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gendyn.networks import MLP, Network, functional, initialise
from gendyn.networks.layers import Dense, parameter


def test_a_foreign_pair_is_a_network():
    net = Network(init=lambda key: {"w": jax.random.normal(key, (2, 2))}, apply=lambda p, x, label, cond: x @ p["w"])
    params = net.init(jax.random.key(0))
    x = jnp.ones((3, 2))
    assert (net.train(params, x, 0.1, None, jax.random.key(1)) == net.apply(params, x, 0.1, None)).all()
    assert net.axes is None
    assert net.roles is None
    assert hash(net.train) == hash(Network(init=net.init, apply=net.apply).train)
    assert initialise(net, jax.random.key(0))["w"].shape == (2, 2)


def test_blocks_keep_their_order_beyond_ten():
    """Names sort "10" before "2"; block i of the tree must still be block i of the module."""
    net = functional(partial(MLP, 2, width=4, depth=12, num_classes=1))
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes)
    merged = net.apply.blueprint.module(params)
    for i in range(12):
        assert (merged.blocks[i].hidden.kernel[...] == params["blocks"][str(i)]["hidden"]["kernel"]).all()
    assert len(merged.blocks) == 12


def test_parameters_are_a_nested_dict_with_string_keys():
    params = jax.eval_shape(functional(partial(MLP, 2, width=4, depth=2)).init, jax.random.key(0))

    def keys(node):
        if isinstance(node, dict):
            yield from node
            for child in node.values():
                yield from keys(child)

    assert all(type(key) is str for key in keys(params))


def test_functional_allocates_nothing():
    """A network of 10^12 parameters is described in milliseconds."""
    net = functional(partial(MLP, 2, width=500_000, depth=1))
    assert net.axes["stem"]["kernel"] == ("data", "embed")


def test_params_of_another_configuration_are_named():
    small, deep = (functional(partial(MLP, 2, width=4, depth=depth)) for depth in (1, 2))
    params = jax.eval_shape(small.init, jax.random.key(0))
    with pytest.raises(KeyError, match="blocks/1/"):
        jax.eval_shape(deep.apply, params, jnp.ones((1, 2)), 0.0, None)


def test_init_takes_its_shardings():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    net = functional(partial(MLP, 2, width=4, depth=1))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params = initialise(net, jax.random.key(0), rows)
    alone = initialise(net, jax.random.key(0))
    assert all(leaf.sharding.is_equivalent_to(rows, leaf.ndim) for leaf in jax.tree.leaves(params))
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), params, alone))


class Stateful(nnx.Module):
    def __init__(self, *, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.kernel = parameter(rngs, nnx.initializers.zeros, (1,), ("data",))


def test_modules_with_random_state_are_refused():
    with pytest.raises(ValueError, match="a network holds parameters only, but 'dropout/"):
        functional(Stateful)


class HalfAnnotated(nnx.Module):
    def __init__(self, *, rngs):
        self.known = Dense(2, 2, ("data", "data"), rngs=rngs)
        self.unknown = nnx.Param(jnp.zeros(2))


class Plain(nnx.Module):
    def __init__(self, *, rngs):
        self.linear = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x, label, cond=None, *, key=None):
        return self.linear(x)


def test_annotations_are_all_or_nothing():
    with pytest.raises(ValueError, match="'unknown' has none"):
        functional(HalfAnnotated)
    plain = functional(Plain)
    assert plain.axes is None
    assert plain.apply(initialise(plain, jax.random.key(0)), jnp.ones((3, 2)), 0.0, None).shape == (3, 2)


def test_dispatch_hash_is_cached():
    """jax hashes the function of a Partial at every call, so hashing must not walk the module again."""
    apply = functional(partial(MLP, 2, width=4, depth=2)).apply
    hash(apply)
    assert "_hash" in vars(apply.blueprint)
