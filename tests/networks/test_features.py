"""What any block returns, by name: the same network, the same numbers, nothing leaked out of a transformed block."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gendyn as gd
from gendyn.jaxprs import REMATERIALISED
from gendyn.networks import MLP, DiT, EDMUNet, UNet, feature_shapes, features, functional
from gendyn.networks.conditioning import Told
from gendyn.networks.layers import parameter
from gendyn.parametrization.scaled import Multiplied
from gendyn.tree import paths

NETWORKS = {
    "mlp": (partial(MLP, 3, width=8, depth=2), (3,), "blocks/1"),
    "unet": (partial(UNet, 1, 1, width=4, multipliers=(1,), blocks=1, attention=()), (4, 1), "decoder/0/hidden"),
    "dit": (partial(DiT, (4, 4, 1), patch=2, width=12, depth=1, heads=2), (4, 4, 1), "blocks/0/attention"),
    "edm": (partial(EDMUNet, 4, 1, width=4, multipliers=(1,), blocks=1, attention=()), (4, 4, 1), "decoder/4x4_in0"),
}
each = pytest.mark.parametrize("name", NETWORKS)


@cache
def case(name, **options):
    """(apply, params, x): parameters of order 0.3, because at initialisation most blocks return nothing."""
    make, shape, _ = NETWORKS[name]
    network = functional(partial(make, **options))
    leaves, structure = jax.tree.flatten(jax.eval_shape(network.init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = structure.unflatten(jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32) for leaf in leaves)
    return network.apply, params, jnp.asarray(rng.standard_normal((2, *shape)), jnp.float32)


@each
def test_every_module_with_parameters_is_a_feature(name):
    apply, params, x = case(name)
    owners = {path.rpartition("/")[0] for path, _ in paths(params)}
    listed = feature_shapes(apply, jax.eval_shape(lambda: params), x, 0.3)
    assert owners <= set(listed)
    assert all(shape.shape[0] in (1, 2) for shape in listed.values())


@each
def test_features_are_had_beside_the_same_output(name):
    asked = NETWORKS[name][2]
    apply, params, x = case(name)
    plain = jax.jit(apply)(params, x, 0.3)
    output, found = jax.jit(partial(features, apply, names=[asked]))(params, x, 0.3)
    assert (output == plain).all()
    assert set(found) == {asked}
    assert found[asked].shape == feature_shapes(apply, params, x, 0.3)[asked].shape


@pytest.mark.parametrize("name", ["mlp", pytest.param("unet", marks=pytest.mark.slow)])
def test_features_of_rematerialised_blocks(name):
    """The same values and gradients, and the blocks stay rematerialised."""
    asked = NETWORKS[name][2]
    (apply, params, x), (again, *_) = case(name), case(name, remat=True)

    def energy(apply, params):
        return (features(apply, params, x, 0.3, names=[asked])[1][asked] ** 2).sum()

    kept, made = (jax.jit(jax.value_and_grad(partial(energy, call)))(params) for call in (apply, again))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), kept, made)
    assert float(abs(kept[1]["stem"]["kernel"]).max()) > 0
    parts = [eqn.primitive.name for eqn in jax.make_jaxpr(partial(energy, again))(params).eqns]
    assert any(part in REMATERIALISED for part in parts)


def test_a_block_makes_its_feature_of_the_features_before_it():
    """Blocks called by hand, outside the network, on the features that they are given."""
    apply, params, x = case("unet")
    names = ["conditioning", "stem", "encoder/0", "middle/0"]
    _, found = jax.jit(partial(features, apply, names=names))(params, x, 0.3)
    module = apply.blueprint.module(params)
    h = module.stem(x)
    np.testing.assert_allclose(h, found["stem"], rtol=1e-6)
    for block, name in ((module.encoder[0], "encoder/0"), (module.middle[0], "middle/0")):
        h = block(h, Told(found["conditioning"]), None)
        np.testing.assert_allclose(h, found[name], rtol=1e-5, atol=1e-6)


def test_features_of_a_map_are_a_map_of_features():
    apply, params, x = case("mlp")

    def one(row):
        return features(apply, params, row[None], 0.3, names=["blocks/0"])[1]["blocks/0"][0]

    _, together = features(apply, params, x, 0.3, names=["blocks/0"])
    np.testing.assert_allclose(jax.vmap(one)(x), together["blocks/0"], rtol=1e-5, atol=1e-6)


def test_features_of_a_denoiser_are_those_of_its_network_at_what_it_is_told():
    apply, params, x = case("mlp")
    process, precondition = gd.processes.EDM(), gd.predictions.EDMPreconditioner()
    D = gd.denoiser(apply, params, process, "F", precondition=precondition)
    denoised, found = jax.jit(partial(features, names=["blocks/1"]))(D, x, 2.0)
    _, own = jax.jit(partial(features, apply, names=["blocks/1"]))(params, x / np.sqrt(4.25), np.log(2.0) / 4)
    np.testing.assert_allclose(found["blocks/1"], own["blocks/1"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(denoised, D(x, 2.0), rtol=1e-5, atol=1e-6)


def test_features_of_a_network_that_a_table_multiplies():
    """They are those of the network with multiplied parameters."""
    apply, params, x = case("mlp")
    factors = tuple(2.0 ** (i % 3) for i in range(len(jax.tree.leaves(params))))
    wide = Multiplied(apply, factors)
    output, found = features(wide, params, x, 0.3, names=["stem"])
    assert (output == wide(params, x, 0.3)).all()
    named = dict(zip([path for path, _ in paths(params)], factors))
    own = x @ (named["stem/kernel"] * params["stem"]["kernel"]) + named["stem/bias"] * params["stem"]["bias"]
    np.testing.assert_allclose(found["stem"], own, rtol=1e-5)


class Stack(nnx.Module):
    """A network whose blocks are one module with stacked weights, scanned over."""

    def __init__(self, depth, width, *, rngs):
        self.kernels = parameter(rngs, jax.nn.initializers.normal(), (depth, width, width), ("spatial", "embed", "mlp"))
        self.inner = Twice()

    def __call__(self, x, label, cond=None, *, key=None):
        return jax.lax.scan(lambda h, w: (self.inner(jnp.tanh(h @ w)), None), x, self.kernels[...])[0]


class Twice(nnx.Module):
    def __call__(self, x):
        return 2 * x


def test_features_of_scanned_blocks_are_stacked():
    apply = functional(partial(Stack, 3, 4)).apply
    params, x = (
        {"kernels": jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 4)), jnp.float32)},
        jnp.ones((2, 4)),
    )
    output, found = features(apply, params, x, 0.0, names=["inner"])
    assert found["inner"].shape == (3, 2, 4)
    for i in range(3):
        x = 2 * jnp.tanh(x @ params["kernels"][i])
        np.testing.assert_allclose(found["inner"][i], x, rtol=1e-5)
    np.testing.assert_allclose(output, x, rtol=1e-5)


def test_what_is_not_there_is_said_in_words():
    apply, params, x = case("mlp")
    with pytest.raises(ValueError, match=r"no feature 'blocks/7'; near it are blocks/"):
        features(apply, params, x, 0.3, names=["blocks/7"])
    with pytest.raises(ValueError, match="functional"):
        features(lambda params, x: x, params, x, names=["stem"])
