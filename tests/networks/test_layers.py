"""Layers against independent definitions, and the vocabulary of axes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gendyn.networks import DiT, UNet, dit, functional, grid_sinusoids, sinusoids
from gendyn.networks.dit import patches, unpatch
from gendyn.networks.layers import Attention, Conv, Dense, GroupNorm, LayerNorm, dropout, parameter
from gendyn.networks.unet import double, halve, layout
from gendyn.parametrization import role


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_convolution_in_the_interior_is_a_sum_over_neighbours(spatial):
    conv = Conv(2, 3, ("data", "embed"), spatial=spatial, rngs=nnx.Rngs(0))
    x = draw(1, *(3,) * spatial, 2)
    centre = conv(x)[(0, *(1,) * spatial)]
    assert np.allclose(centre, np.tensordot(x[0], conv.kernel[...], spatial + 1), atol=1e-5)
    assert conv(x).shape == (1, *(3,) * spatial, 3)


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_convolution_of_an_impulse_is_the_reflected_kernel(spatial):
    conv = Conv(1, 1, ("data", "embed"), spatial=spatial, rngs=nnx.Rngs(0))
    middle = (0, *(2,) * spatial, 0)
    response = conv(jnp.zeros((1, *(5,) * spatial, 1)).at[middle].set(1.0))
    window = response[(0, *(slice(1, 4),) * spatial, 0)]
    assert np.allclose(np.flip(window), conv.kernel[..., 0, 0], atol=1e-6)


def test_group_norm_standardises_each_group_and_survives_a_large_mean():
    norm = GroupNorm(8, groups=2, rngs=nnx.Rngs(0))
    x = draw(2, 5, 3, 8) * 0.1 + 100.0
    groups = np.asarray(norm(x), np.float64).reshape(2, 15, 2, 4)
    assert np.abs(groups.mean((1, 3))).max() < 2e-3
    assert np.abs(groups.std((1, 3)) - 1).max() < 2e-3


def test_group_norm_agrees_with_flax():
    ours, flaxs = GroupNorm(12, groups=3, rngs=nnx.Rngs(0)), nnx.GroupNorm(12, 3, epsilon=1e-5, rngs=nnx.Rngs(0))
    x = draw(2, 4, 4, 12)
    assert np.allclose(ours(x), flaxs(x), atol=1e-5)


def test_statistics_are_float32_for_bfloat16_data():
    """At 1000 +- 1, bfloat16 (steps of 4) statistics would be useless; the norm of the rounded data is exact."""
    x = (draw(4, 64) * 40 + 1000).astype(jnp.bfloat16)
    for norm in (LayerNorm(), GroupNorm(64, groups=1, rngs=nnx.Rngs(0))):
        exact = norm(x.astype(jnp.float32))
        assert norm(x).dtype == jnp.bfloat16
        assert np.abs(norm(x).astype(jnp.float32) - exact).max() < 0.02


def test_attention_of_equal_tokens_is_the_value_of_one():
    attention = Attention(8, 2, rngs=nnx.Rngs(0))
    token = draw(1, 1, 8)
    assert np.allclose(attention(jnp.repeat(token, 5, axis=1)), attention.out(attention.value(token)), atol=1e-5)


def test_attention_without_scale_averages_the_values():
    attention = Attention(8, 2, scale=0.0, rngs=nnx.Rngs(0))
    x = draw(2, 5, 8)
    average = attention.out(attention.value(x).mean(1, keepdims=True))
    assert np.allclose(attention(x), jnp.broadcast_to(average, x.shape), atol=1e-5)


def test_dropout_keeps_the_mean():
    """20,000 draws at rate 0.3: standard error 0.0046, asked within five."""
    dropped = dropout(jnp.ones(20_000), 0.3, jax.random.key(0))
    assert abs(float(dropped.mean()) - 1) < 0.024
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.7)}


@pytest.mark.parametrize("grid", [(4,), (4, 6), (2, 4, 6)])
def test_patches_come_back(grid):
    x = draw(2, *grid, 3)
    tokens = patches(x, 2)
    assert tokens.shape == (2, np.prod(grid) // 2 ** len(grid), 3 * 2 ** len(grid))
    assert (unpatch(tokens, tuple(n // 2 for n in grid), 2) == x).all()
    assert (tokens[0, 0, :3] == x[(0, *(0,) * len(grid))]).all()


@pytest.mark.parametrize("grid", [(4,), (4, 6), (2, 4, 6)])
def test_halving_undoes_doubling_and_keeps_the_mean(grid):
    x = draw(2, *grid, 3)
    assert np.allclose(halve(double(x)), x, atol=1e-6)
    assert np.allclose(halve(x).mean(), x.mean(), atol=1e-6)


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 2, 2, 3)])
@pytest.mark.parametrize("blocks", [1, 3])
def test_u_net_rows_join_and_take_each_skip_once(multipliers, blocks):
    encoder, middle, decoder = layout(multipliers, blocks, ())
    skips, channels = [multipliers[0]], multipliers[0]
    for row in encoder:
        assert row.inputs == channels
        skips.append(channels := row.outputs)
    for row in middle + decoder:
        assert row.inputs == channels + (skips.pop() if row.joins else 0)
        channels = row.outputs
    assert skips == []
    assert channels == multipliers[0]
    resampled = [row.resample for row in encoder + decoder]
    assert resampled.count("down") == resampled.count("up") == len(multipliers) - 1


def test_u_net_without_attention_is_local_to_its_grid():
    """A fully convolutional network takes any grid that its levels divide."""
    net = functional(partial(UNet, 2, 1, width=4, multipliers=(1, 1), blocks=1, attention=()))
    params = jax.eval_shape(net.init, jax.random.key(0))
    for grid in ((4, 4), (6, 10)):
        assert jax.eval_shape(net.apply, params, jnp.ones((1, *grid, 1)), 0.0, None).shape == (1, *grid, 1)
    with pytest.raises(ValueError, match=r"multiple of 2, got \(5, 4\)"):
        jax.eval_shape(net.apply, params, jnp.ones((1, 5, 4, 1)), 0.0, None)


def test_positions_tell_transposed_images_apart():
    """Without positions a transformer is blind to the order of its patches; the fixed table must break that."""
    assert len(np.unique(grid_sinusoids((5, 7), 16).round(6), axis=0)) == 35
    rows = grid_sinusoids((3, 4), 8).reshape(3, 4, 8)
    assert np.allclose(rows[0, :, :4], rows[2, :, :4])  # first half: the column, as published
    assert np.allclose(rows[:, 0, 4:], rows[:, 3, 4:])  # second half: the row


def test_sinusoids_resolve_every_kind_of_label():
    """Neighbouring labels of each clock in use stay apart; the features have unit mean square in pairs."""
    for labels in (np.linspace(0, 1, 101), np.linspace(-2, 2, 101), np.arange(1000)):
        features = np.asarray(sinusoids(jnp.asarray(labels, jnp.float32), 64))
        assert np.linalg.norm(np.diff(features, axis=0), axis=1).min() > 0.3
        assert np.allclose((features**2).mean(1), 0.5, atol=1e-5)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (("spatial", "spatial", "data", "embed"), "input"),
        (("spatial", "spatial", "embed", "mlp"), "hidden"),
        (("spatial", "embed", "data"), "output"),
        (("embed",), "vector"),
        (("head_dim",), "scalar"),
        (("layers", "embed"), "vector"),
        (("layers", "embed", "mlp"), "hidden"),
        ((), "scalar"),
    ],
)
def test_role_follows_from_the_axes(axes, expected):
    assert role(axes) == expected


def test_parameters_cannot_be_made_without_naming_their_axes():
    with pytest.raises(ValueError, match="needs 2 axis names"):
        parameter(nnx.Rngs(0), nnx.initializers.zeros, (2, 3), ("embed",))
    with pytest.raises(ValueError, match="got 'width'"):
        Dense(2, 3, ("data", "width"), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(UNet, 4, 1), "1, 2 or 3 spatial"),
        (partial(UNet, 2, 1, width=8, multipliers=(1, 2), attention=(16,)), "not resolutions"),
        (partial(UNet, 2, 1, width=144, multipliers=(1,)), "choose a width that does"),
        (partial(DiT, (9, 8, 1), patch=2), "must tile the grid"),
        (partial(DiT, (8, 8, 1), width=10, heads=4), "heads that divide the width"),
        (partial(DiT, (8, 8, 1), width=10, heads=2, depth=1, positions="rope"), '"sincos" or "learned"'),
    ],
)
def test_impossible_configurations_are_refused_when_built(build, message):
    with pytest.raises(ValueError, match=message):
        functional(build)


def test_positions_need_a_width_that_splits():
    net = functional(partial(DiT, (4, 4, 4, 1), patch=2, width=8, heads=2, depth=1))
    with pytest.raises(ValueError, match="multiple of 6"):
        jax.eval_shape(net.apply, jax.eval_shape(net.init, jax.random.key(0)), jnp.ones((1, 4, 4, 4, 1)), 0.0, None)


def test_a_transformer_sees_the_order_of_its_patches():
    net = functional(partial(DiT, (4, 4, 1), width=8, depth=1, heads=2))
    params = jax.tree.map(lambda leaf: 0.3 * draw(*leaf.shape), jax.eval_shape(net.init, jax.random.key(0)))
    apply = jax.jit(net.apply)
    x = draw(1, 4, 4, 1)
    rolled = jnp.roll(apply(params, x, 0.1, None), 2, axis=1)
    assert not np.allclose(apply(params, jnp.roll(x, 2, axis=1), 0.1, None), rolled, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("S/2", 33),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("B/2", 130), ("L/2", 458), ("XL/2", 675))),
    ],
)
def test_published_sizes_have_the_published_parameters(name, millions):
    """Of Peebles and Xie 2023, table 4, on 32x32x4 latents with a learned variance and 1000 classes."""
    network = functional(dit(name, num_classes=1000, out_channels=8))
    params = jax.eval_shape(network.init, jax.random.key(0))
    assert abs(sum(a.size for a in jax.tree.leaves(params)) / 1e6 - millions) < 1


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match=r"S/PATCH, B/PATCH.*got 'H/2'"):
        dit("H/2")


def test_normalised_queries_and_keys_do_not_see_the_scale_of_their_kernels():
    """And without it they do: the same attention with both kernels and biases ten times as large."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 8))
    for qk_norm, same in (("rms", True), (None, False)):
        attention = Attention(8, 2, qk_norm=qk_norm, rngs=nnx.Rngs(0))
        before = attention(x)
        for layer in (attention.query, attention.key):
            layer.kernel[...] = 10 * layer.kernel[...]
        assert np.allclose(attention(x), before, atol=1e-4) == same
