"""A U-Net in two halves: together the whole, apart what each is said to see; and the scale of what passes between."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn.networks import MLP, EDMUNet, Encoded, UNet, functional
from gendyn.networks.halves import scaled

# Sixteen channels in groups of four where a decoder block joins eight of each kind: no group mixes the two.
NETWORKS = {
    "unet": (partial(UNet, 1, 1, width=8, multipliers=(1,), blocks=1, attention=()), (4, 1)),
    "edm": (partial(EDMUNet, 4, 1, width=8, multipliers=(1,), blocks=1, attention=()), (4, 4, 1)),
}
each = pytest.mark.parametrize("name", ["unet", pytest.param("edm", marks=pytest.mark.slow)])


@cache
def case(name):
    """(apply, params, x) with parameters of order 0.3."""
    make, shape = NETWORKS[name]
    network = functional(make)
    leaves, structure = jax.tree.flatten(jax.eval_shape(network.init, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = structure.unflatten(jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32) for leaf in leaves)
    return network.apply, params, jnp.asarray(rng.standard_normal((2, *shape)), jnp.float32)


def halves(apply):
    """The call in two halves, as one compiled function of (params, x, told to the encoder, told to the decoder)."""

    @jax.jit
    def call(params, x, first, second, scale=None):
        return apply.decode(params, apply.encode(params, x, first), second, skip_scale=scale)

    return call


def edited(params, parts, change):
    """Parameters with change(name, leaf) in the place of every leaf under the parts."""

    def edit(path, leaf):
        names = [key.key for key in path]
        return change(names, leaf) if parts(names) else leaf

    return jax.tree_util.tree_map_with_path(edit, params)


@each
def test_the_halves_make_the_whole_and_scale_one_changes_nothing(name):
    apply, params, x = case(name)
    whole = jax.jit(apply)(params, x, 0.3)
    call = halves(apply)
    assert float(abs(whole).max()) > 0.1
    assert (call(params, x, 0.3, 0.3) == whole).all()
    np.testing.assert_allclose(call(params, x, 0.3, 0.3, jnp.ones(())), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_scale_of_zero_is_a_decoder_whose_kernels_do_not_read_the_skips(name):
    apply, params, x = case(name)
    joins = lambda names: names[0] == "decoder" and "in" not in names[1]

    def silent(names, leaf):
        """Of what a norm sees of the skip: no bias, which would pass on where the features are zero."""
        return leaf.at[8:].set(0) if names[2:] == ["norm", "bias"] else leaf

    def blind(names, leaf):
        return leaf.at[..., 8:, :].set(0) if names[2] in ("hidden", "skip") and names[3] == "kernel" else leaf

    params = edited(params, joins, silent)
    zero = halves(apply)(params, x, 0.3, 0.3, jnp.zeros(()))
    np.testing.assert_allclose(zero, jax.jit(apply)(edited(params, joins, blind), x, 0.3), rtol=1e-5, atol=1e-6)
    assert float(abs(zero - jax.jit(apply)(params, x, 0.3)).max()) > 0.05


@each
def test_the_decoder_is_told_the_level_it_is_called_with(name):
    """An encoder that hears nothing of the level leaves it to the decoder alone."""
    apply, params, x = case(name)
    encoder = lambda names: names[0] in ("encoder", "middle") or "_in" in "".join(names[:2])
    deaf = edited(params, encoder, lambda names, leaf: 0 * leaf if "modulation" in names else leaf)
    np.testing.assert_allclose(halves(apply)(deaf, x, -5.0, 0.8), jax.jit(apply)(deaf, x, 0.8), rtol=1e-5, atol=1e-6)
    assert float(abs(halves(apply)(params, x, -5.0, 0.8) - jax.jit(apply)(params, x, 0.8)).max()) > 1e-3


def test_scales_run_from_the_bottom_to_the_top():
    """The last joined connection is the stem's."""
    apply, params, x = case("unet")
    encoded = jax.jit(apply.encode)(params, x, 0.3)
    np.testing.assert_allclose(encoded.skips[-1], apply.blueprint.module(params).stem(x), rtol=1e-5, atol=1e-6)
    by_hand = Encoded(encoded.h, (0.25 * encoded.skips[0], 0.75 * encoded.skips[1]))
    ours = jax.jit(partial(apply.decode, skip_scale=(0.25, 0.75)))(params, encoded, 0.3)
    np.testing.assert_allclose(ours, jax.jit(apply.decode)(params, by_hand, 0.3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(0.5, [0.5] * 5), ((0.6, 1.0), [0.6, 0.7, 0.8, 0.9, 1.0]), ((1.0, 0.0, 1.0), [1.0, 0.5, 0.0, 0.5, 1.0])],
)
def test_scales_between_knots_lie_on_lines(scale, expected):
    skips = (jnp.ones(1, jnp.bfloat16),) * 5
    made = scaled(skips, scale)
    assert all(skip.dtype == jnp.bfloat16 for skip in made)
    np.testing.assert_allclose(np.array(made, float)[:, 0], expected, rtol=2**-8)


def test_one_scale_for_each_connection_is_taken_exactly():
    made = scaled((jnp.ones(()),) * 3, (0.1, 0.9, 0.3))
    assert [float(skip) for skip in made] == [np.float32(0.1), np.float32(0.9), np.float32(0.3)]


def test_refusals():
    with pytest.raises(ValueError, match="this network has 2"):
        scaled((jnp.ones(()),) * 2, (1.0, 1.0, 1.0))
    mlp = functional(partial(MLP, 2, width=4, depth=1))
    with pytest.raises(ValueError, match="MLP has no encoder and decoder"):
        jax.eval_shape(mlp.apply.encode, jax.eval_shape(mlp.init, jax.random.key(0)), jnp.ones((1, 2)), 0.3)
