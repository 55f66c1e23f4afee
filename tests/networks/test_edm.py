"""The EDM family: published names, resampling, conditions and initialisation. Parity with stored outputs is in
tests/parity/test_edm_networks.py."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from gendyn.importing.inferring import inferred
from gendyn.networks import ADM, DDPMPP, NCSNPP, EDMUNet, functional, initialise
from gendyn.networks.edm_conditioning import one_hot, positional
from gendyn.networks.edm_layers import halving_conv
from gendyn.networks.layers import Attention
from gendyn.networks.published import Published
from gendyn.networks.resampling import filtered, resample
from gendyn.networks.unet import double, halve
from gendyn.tree import paths

TAPS = [(1, 1), (1, 3, 3, 1)]


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@st.composite
def configurations(draw):
    """Small networks of every kind: family, encoder, decoder, filter, depth, attention, classes, augmentation."""
    family = draw(st.sampled_from([DDPMPP, NCSNPP, replace(ADM, head_dim=4), ADM]))
    if family.published == "SongUNet":
        encoder, decoder = (
            draw(st.sampled_from(["standard", "skip", "residual"])),
            draw(st.sampled_from(["standard", "skip"])),
        )
        family = replace(family, encoder=encoder, decoder=decoder, taps=draw(st.sampled_from(TAPS)))
    levels = draw(st.integers(1, 3 if family.published == "SongUNet" else 2))
    return {
        "resolution": 8,
        "channels": draw(st.integers(1, 3)),
        "family": family,
        "width": 4 * draw(st.integers(1, 2)),
        "multipliers": tuple(draw(st.integers(1, 3)) for _ in range(levels)),
        "blocks": draw(st.integers(1, 2)),
        "attention": tuple(draw(st.sets(st.sampled_from([8, 4, 2])))),
        "conditioning": draw(st.integers(1, 4)),
        "num_classes": draw(st.sampled_from([None, 3])),
        "augment": draw(st.sampled_from([0, 9])),
    }


@settings(max_examples=4, deadline=None, derandomize=True)
@given(configurations())
def test_published_names_are_a_bijection(sizes):
    bijection(sizes)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(configurations())
def test_published_names_are_a_bijection_in_many_configurations(sizes):
    bijection(sizes)


def bijection(sizes):
    """Every tensor to one place and back bit for bit; every parameter filled; names and shapes say the architecture."""
    network = functional(partial(EDMUNet, **sizes))
    names = Published.of(network)
    rng = np.random.default_rng(0)
    own = {entry.name: rng.standard_normal(entry.shape).astype(np.float32) for entry in names.entries}
    assert len(own) == len(names.entries)
    params = names.adopt(own | names.buffers)
    abstract = jax.eval_shape(network.init, jax.random.key(0))
    assert {p: a.shape for p, a in paths(params)} == {p: a.shape for p, a in paths(abstract)}
    assert sum(a.size for a in jax.tree.leaves(params)) == sum(a.size for a in own.values())
    back = names.release(params)
    assert back.keys() == own.keys() | names.buffers.keys()
    assert all((back[name] == own[name]).all() for name in own)
    said = inferred(own | names.buffers)
    assert (said["img_channels"], said["num_blocks"], said["label_dim"], said["augment_dim"]) == (
        sizes["channels"], sizes["blocks"], sizes["num_classes"] or 0, sizes["augment"],
    )  # fmt: skip
    assert tuple(said["channel_mult"]) == sizes["multipliers"]
    if sizes["family"].published == "SongUNet" and len(sizes["multipliers"]) > 1:
        assert (said["encoder_type"], said["decoder_type"]) == (sizes["family"].encoder, sizes["family"].decoder)
        assert tuple(said["resample_filter"]) == sizes["family"].taps


@cache
def tiny(**options):
    return functional(
        partial(EDMUNet, 4, 1, **{"width": 4, "multipliers": (1, 2), "blocks": 1, "attention": ()} | options)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("map_layer0.bias"), "lacks 1 tensors of this architecture, first map_layer0.bias"),
        (lambda t: t.update(more=np.ones(1)), "has 1 tensors that this architecture lacks, first more"),
        (lambda t: t.update({"map_layer0.bias": np.ones(3)}), r"map_layer0.bias is \[3\] in the file, but \[16\]"),
        (lambda t: t.update({"enc.2x2_down.skip.resample_filter": np.ones((1, 1, 2, 2))}), "filter enc.2x2_down.skip"),
    ],
)
def test_other_tensors_are_refused(change, message):
    names = Published.of(tiny())
    tensors = {entry.name: np.zeros(entry.shape) for entry in names.entries} | names.buffers
    change(tensors)
    with pytest.raises(ValueError, match=message):
        names.adopt(tensors)


def test_query_key_and_value_interleave_in_the_published_kernel():
    """Output head*(3c) + 3j + t of qkv is feature j of query, key or value (t = 0, 1, 2) of that head."""
    network = functional(
        partial(EDMUNet, 2, 1, family=replace(ADM, head_dim=3), width=6, multipliers=(1,), blocks=1, attention=())
    )
    names, rng = Published.of(network), np.random.default_rng(0)
    tensors = {entry.name: rng.standard_normal(entry.shape).astype(np.float32) for entry in names.entries}
    params = names.adopt(tensors)["decoder"]["2x2_in0"]["attention"]
    W, b = tensors["dec.2x2_in0.qkv.weight"][:, :, 0, 0], tensors["dec.2x2_in0.qkv.bias"]
    x = rng.standard_normal((4, 6)).astype(np.float32)
    mixed = np.zeros((4, 6))
    for head in range(2):
        q, k, v = (np.stack([x @ W[i] + b[i] for i in head * 9 + 3 * np.arange(3) + t], -1) for t in range(3))
        logits = np.exp(q @ k.T / np.sqrt(3))
        mixed[:, 3 * head : 3 * head + 3] = logits / logits.sum(-1, keepdims=True) @ v
    expected = mixed @ tensors["dec.2x2_in0.proj.weight"][:, :, 0, 0].T + tensors["dec.2x2_in0.proj.bias"]
    attention = Attention(6, 2, rngs=nnx.Rngs(0))
    for name in ("query", "key", "value", "out"):
        layer = getattr(attention, name)
        layer.kernel[...], layer.bias[...] = params[name]["kernel"], params[name]["bias"]
    np.testing.assert_allclose(attention(x[None])[0], expected, atol=1e-5)


def test_filter_of_two_is_the_mean_and_the_nearest_neighbour():
    x = draw(2, 4, 6, 3)
    np.testing.assert_allclose(resample(x, "down", (1, 1)), halve(x), atol=1e-6)
    np.testing.assert_allclose(resample(x, "up", (1, 1)), double(x), atol=1e-6)


@pytest.mark.parametrize("taps", TAPS)
def test_doubling_is_four_times_the_adjoint_of_halving(taps):
    """<up x, y> = 4 <x, down y>: one filter, transposed, with four times the weight."""
    x, y = draw(1, 4, 4, 2), draw(1, 8, 8, 2, seed=1)
    up, down = resample(x, "up", taps), resample(y, "down", taps)
    assert (up.shape, down.shape) == (y.shape, x.shape)
    np.testing.assert_allclose(jnp.vdot(up, y), 4 * jnp.vdot(x, down), rtol=1e-5)


def test_long_filter_keeps_constants_and_slopes_inside():
    """Sum one and symmetric: a ramp comes out as the same ramp at half the resolution, away from the border."""
    ramp = jnp.broadcast_to(jnp.arange(12.0)[None, :, None, None], (1, 12, 12, 1))
    halved = resample(ramp, "down", (1, 3, 3, 1))[0, 1:-1, 2, 0]
    np.testing.assert_allclose(halved, 2 * np.arange(1, 5) + 0.5, rtol=1e-6)


@pytest.mark.parametrize("taps", TAPS)
def test_fused_halving_is_the_filter_of_the_convolution_on_an_endless_plane(taps):
    """What lies beyond the border are responses of the convolution, which zeros wide enough around x reproduce."""
    conv = halving_conv(replace(NCSNPP, taps=taps), 2, 3, ("data", "embed"), dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = draw(1, 6, 6, 2)
    wide = conv.correlate(jnp.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0))), "SAME")
    for axis in (1, 2):
        wide = filtered(wide, taps, axis, stride=2, padding=(len(taps) - 1) // 2)
    np.testing.assert_allclose(conv(x), wide[:, 2:5, 2:5], atol=1e-5)


def test_positional_frequencies_have_the_published_ends():
    assert positional(8, endpoint=True)[[0, -1]].tolist() == pytest.approx([1.0, 1e-4])
    assert positional(8, endpoint=False)[[0, 4]].tolist() == pytest.approx([1.0, 1e-2])


def test_rows_of_classes():
    assert one_hot(jnp.array([1, 2]), 2, 2).tolist() == [[0, 1], [0, 0]]
    assert one_hot(None, 2, 5).tolist() == [[0, 0]]
    assert one_hot(jnp.array([[0.25, 0.75]]), 2, 5).tolist() == [[0.25, 0.75]]
    assert np.isnan(one_hot(jnp.array([3, -1]), 2, 2)).all()


@pytest.fixture(scope="module")
def conditional():
    """A network with classes and augmentation labels, and random parameters."""
    network = tiny(family="ncsnpp", num_classes=3, augment=9)
    leaves, structure = jax.tree.flatten(jax.eval_shape(network.init, jax.random.key(0)))
    params = structure.unflatten([0.3 * draw(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)])
    apply = jax.jit(network.apply, compiler_options={"xla_backend_optimization_level": 0})
    return lambda cond: apply(params, draw(2, 4, 4, 1), jnp.array([0.1, 0.7]), cond)


def test_ways_of_saying_the_same_condition(conditional):
    """Numbers or rows, none or zeros; each alone or in a mapping. And other conditions are other outputs."""
    classes, rows = jnp.array([0, 2]), jnp.eye(3)[jnp.array([0, 2])]
    label = draw(2, 9, seed=2)
    by_number = conditional(classes)
    np.testing.assert_allclose(conditional(rows), by_number, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(conditional({"classes": classes, "augment": 0 * label}), by_number, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(conditional({}), conditional(jnp.array([3, 3])), rtol=1e-5, atol=1e-5)
    assert np.abs(conditional({"classes": classes, "augment": label}) - by_number).max() > 1e-2
    assert np.abs(conditional(jnp.array([1, 2])) - by_number)[0].max() > 1e-2


@pytest.mark.parametrize(
    ("cond", "message"),
    [
        ({"text": 1}, '"classes" and "augment", got \'text\''),
        ({"augment": jnp.ones((2, 8))}, r"the augmentation label is \[2, 9\]"),
        (jnp.ones((2, 4)), "one value per example"),
    ],
)
def test_bad_conditions_are_named(conditional, cond, message):
    with pytest.raises(ValueError, match=message):
        conditional(cond)


def test_an_augmentation_label_for_a_network_without_is_refused():
    net = tiny()
    params = jax.eval_shape(net.init, jax.random.key(0))
    with pytest.raises(ValueError, match="augment="):
        jax.eval_shape(net.apply, params, jnp.ones((2, 4, 4, 1)), 0.1, {"augment": jnp.ones((2, 9))})


@pytest.mark.slow
def test_fourier_frequencies_travel_with_the_weights_and_are_not_trained():
    net = tiny(family="ncsnpp")
    params = initialise(net, jax.random.key(0))
    assert params["conditioning"]["frequencies"].shape == (4,)
    randomised = jax.tree.map(lambda a: a + 0.1, params)
    loss = lambda p: jnp.square(net.apply(p, draw(1, 4, 4, 1), 0.3)).sum()
    grads = jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": 0})(randomised)
    assert not np.any(grads["conditioning"]["frequencies"])
    assert np.any(grads["conditioning"]["level"]["kernel"])


def test_heads_below_their_width_vanish():
    """ADM's rule channels // 64, even where attention is otherwise always on; DDPM++ has one head at any width."""
    has = lambda net: any("attention" in path for path, _ in paths(jax.eval_shape(net.init, jax.random.key(0))))
    assert not has(tiny(family="adm", attention=(4, 2)))
    assert has(tiny(family="ddpmpp"))


@pytest.mark.parametrize("family", ["ddpmpp", "adm"])
def test_initialisation_is_the_published_one(family):
    """Uniform to the published bound: the largest of over 250 draws lies within 5 % of it but for 1 chance in 1e5."""
    params = initialise(tiny(family=family, width=8), jax.random.key(0))
    row = params["encoder"]["2x2_block0"]
    bound = {"ddpmpp": np.sqrt(6 / (9 * 24)), "adm": np.sqrt(1 / (9 * 8))}[family]  # 3x3 from 8 to 16 channels
    largest = np.max(np.abs(row["hidden"]["kernel"]))
    assert 0.95 * bound < largest <= bound
    assert np.any(row["hidden"]["bias"]) == (family == "adm")
    last = np.max(np.abs(row["out"]["kernel"]))
    assert last == 0 if family == "adm" else 0 < last < 1e-5
    x = draw(1, 4, 4, 1)
    out = np.abs(tiny(family=family, width=8).apply(params, x, 0.3)).max()
    assert out == 0 if family == "adm" else 0 < out < 1e-3


def test_sizes_that_do_not_halve_are_refused():
    with pytest.raises(ValueError, match="multiple of 2, got 5"):
        EDMUNet(5, 1, width=4, multipliers=(1, 1), blocks=1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="ddpmpp, ncsnpp, adm"):
        EDMUNet(4, 1, family="edm2", rngs=nnx.Rngs(0))
