"""Parameters known by what consumes them, in layouts of other libraries, and depth."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import gendyn as gd
from gendyn.parametrization import activations, table, uses
from gendyn.tree import paths

P = gd.parametrization
NETWORKS = {
    "mlp": (partial(gd.networks.MLP, 2, width=8, depth=2, num_classes=3, remat=True), (2,)),
    "dit": (partial(gd.networks.DiT, (4, 4, 1), width=8, depth=1, heads=2, num_classes=3, qk_norm="rms"), (4, 4, 1)),
    "unet": (partial(gd.networks.UNet, 2, 1, width=4, multipliers=(1, 2), blocks=1, num_classes=3), (4, 4, 1)),
}


@pytest.mark.parametrize("name", ["mlp", "dit", pytest.param("unet", marks=pytest.mark.slow)])
def test_the_networks_use_their_parameters_as_their_axes_say(name):
    """All but the last axis of a kernel is summed over; and looking does not change what is computed."""
    make, shape = NETWORKS[name]
    network = gd.networks.functional(make)
    params = gd.networks.initialise(network, jax.random.key(0))
    inputs = (jax.random.normal(jax.random.key(1), (2, *shape)), jnp.float32(0.3), jnp.array([0, 2]))
    found = uses(network.apply, params, *inputs)
    for path, leaf in paths(params):
        (use,) = found[path]
        if leaf.ndim == 1:
            assert use.how == "elementwise"
        else:
            assert (set(use.fan_in), set(use.fan_out)) == (set(range(leaf.ndim - 1)), {leaf.ndim - 1}), path
    output, inside = jax.jit(partial(activations, network.apply))(params, *inputs)
    np.testing.assert_allclose(output, jax.jit(network.apply)(params, *inputs), rtol=1e-5, atol=1e-6)
    kernels = [path for path, leaf in paths(params) if leaf.ndim > 1]
    assert {path.removesuffix("/kernel") for path in kernels} <= set(inside)


class Foreign(linen.Module):
    """Attention with heads as an axis of the kernels, a convolution by groups, an embedding."""

    width: int

    @linen.compact
    def __call__(self, x):
        h = linen.Conv(self.width, (3,))(x)
        h = linen.Conv(self.width, (3,), feature_group_count=self.width)(linen.silu(h))
        h = h + linen.Embed(5, self.width)(jnp.arange(x.shape[1]) % 5)
        h = linen.MultiHeadDotProductAttention(num_heads=self.width // 4)(linen.LayerNorm()(h))
        return linen.Dense(2)(h)


def test_a_linen_network_without_axes():
    """Kernels [in, heads, features] and [heads, features, out], a depthwise kernel, a table: nothing is declared."""
    x = jnp.ones((2, 6, 3))

    def make(width):
        net = Foreign(width)
        return gd.networks.Network(
            init=lambda key: net.init(key, x)["params"], apply=lambda p, x: net.apply({"params": p}, x)
        )

    rows = table(make, base={"width": 8}, target={"width": 32}, inputs=(x,)).rows
    kinds = {row.path: (row.kind, row.m_in, row.m_out) for row in rows}
    attention = "MultiHeadDotProductAttention_0/"
    assert kinds["Conv_0/kernel"] == ("input", 1, 4)
    assert kinds["Conv_1/kernel"] == ("vector", 1, 4)
    assert kinds["Embed_0/embedding"] == ("input", 1, 4)
    assert kinds[attention + "query/kernel"] == kinds[attention + "out/kernel"] == ("hidden", 4, 4)
    assert kinds[attention + "query/bias"] == ("vector", 1, 4)
    assert kinds["LayerNorm_0/scale"] == ("vector", 1, 4)
    assert kinds["Dense_0/kernel"] == ("output", 4, 1)
    assert kinds["Dense_0/bias"] == ("scalar", 1, 1)


def plain(shapes, apply):
    """Sizes -> a network of given shapes, as another library would lay them out."""
    init = lambda width: {name: jnp.ones([width if d == "n" else d for d in dims]) for name, dims in shapes.items()}
    return lambda width: SimpleNamespace(init=lambda key: init(width), apply=apply, axes=None)


def test_transposed_kernels_and_layers_in_a_scan():
    """PyTorch's (out, in), and equal layers stacked along a first axis that is no fan."""

    def apply(p, x):
        h, _ = jax.lax.scan(lambda h, w: (jnp.tanh(jnp.einsum("bi,oi->bo", h, w)), None), x @ p["stem"].T, p["layers"])
        return h @ p["out"].T

    make = plain({"stem": (3, "n")[::-1], "layers": (5, "n", "n"), "out": (2, "n")}, apply)
    rows = table(make, base={"width": 4}, target={"width": 16}, inputs=(jnp.ones((2, 3)),)).rows
    assert [(row.path, row.kind) for row in rows] == [("layers", "hidden"), ("out", "output"), ("stem", "input")]
    assert [row.m_in for row in rows] == [4, 4, 1]


def test_two_uses_and_wrong_axes_are_refused_by_name():
    tied = plain({"table": (7, "n")}, lambda p, ids: p["table"][ids] @ p["table"].T)
    sizes = {"base": {"width": 4}, "target": {"width": 8}, "inputs": (jnp.zeros(3, int),)}
    with pytest.raises(ValueError, match=r"table is used in several ways \(contracted, looked up.*kinds="):
        table(tied, **sizes)
    assert table(tied, **sizes, kinds={"table": "input"}).rows[0].kind == "input"
    with pytest.raises(ValueError, match="kinds are input, vector, hidden"):
        table(tied, **sizes, kinds={"table": "embedding"})

    class Turned(nnx.Module):
        def __init__(self, width, *, rngs):
            self.stem = gd.networks.layers.parameter(rngs, nnx.initializers.ones, (2, width), ("data", "embed"))

        def __call__(self, x, label, cond=None, *, key=None):
            return x @ self.stem.T

    make = lambda width: gd.networks.functional(partial(Turned, width))
    with pytest.raises(ValueError, match=r"stem declares the axes \('data', 'embed'\).*contracts dimensions \[1\]"):
        table(make, base={"width": 4}, target={"width": 4}, inputs=(jnp.ones((3, 4)), 0.3, None))


def dit(width, heads, **scales):
    return gd.networks.functional(partial(gd.networks.DiT, (4, 4, 1), width=width, heads=heads, depth=1, **scales))


def test_longer_heads_have_their_logits_scaled_by_their_length():
    """Base: 1/sqrt(8). Four times the length: a quarter of that. More heads of one length: nothing to do."""
    inputs = (jnp.ones((2, 4, 4, 1)), jnp.float32(0.3), None)
    found = table(dit, base={"width": 16, "heads": 2}, target={"width": 64, "heads": 2}, inputs=inputs)
    assert found.attention_scale == pytest.approx(8**-0.5 / 4)
    wider = table(dit, base={"width": 16, "heads": 2}, target={"width": 64, "heads": 8}, inputs=inputs)
    assert wider.attention_scale is None


@pytest.mark.slow
def test_a_deeper_unet_is_compared_with_as_deep_a_one():
    """Its products of activations then come in the same order; here neither heads nor anything else between grow."""

    def make(width, blocks, **scales):
        sizes = {"multipliers": (1, 2), "groups": 2, "head_dim": 4, "attention": (0, 1)}
        net = partial(gd.networks.UNet, 2, 1, width=width, blocks=blocks, **sizes, **scales)
        return gd.networks.functional(net)

    inputs = (jnp.ones((2, 4, 4, 1)), jnp.float32(0.3), None)
    found = table(make, base={"width": 8, "blocks": 1}, target={"width": 16, "blocks": 2}, inputs=inputs)
    assert found.attention_scale is None
    assert found.branch_scale == 0.5
    assert {row.m_depth for row in found.rows if row.path.startswith("middle")} == {1.0}
    by = {row.path: row.m_depth for row in found.rows}
    assert {m for path, m in by.items() if path.startswith(("encoder", "decoder")) and "/skip/" not in path} == {2.0}
    assert by["encoder/3/skip/kernel"] == 1  # one shortcut where the channels change, however many blocks follow


def test_rules_without_feature_learning_leave_attention_and_depth_alone():
    inputs = (jnp.ones((2, 4, 4, 1)), jnp.float32(0.3), None)
    for rule in ("sp", "ntk"):
        found = table(dit, base={"width": 16, "heads": 2}, target={"width": 64, "heads": 2}, inputs=inputs, rule=rule)
        assert found.attention_scale is None
        assert found.depth == "none"


# --- Depth ---------------------------------------------------------------------------------------------------------


def residual(width, depth, branch_scale=1.0):
    """A perceptron with `depth` residual blocks; returns the residual stream where label is None."""

    def init(key):
        keys = jax.random.split(key, depth + 2)
        blocks = [jax.random.normal(k, (width, width)) / np.sqrt(width) for k in keys[2:]]
        return {
            "in": jax.random.normal(keys[0], (8, width)) / np.sqrt(8),
            "blocks": blocks,
            "out": jnp.zeros((width, 1)),
        }

    def apply(params, x, label, cond):
        h = x @ params["in"]
        for kernel in params["blocks"]:
            scale = jax.lax.rsqrt(jnp.mean(h**2, axis=-1, keepdims=True) + 1e-6)
            h = h + branch_scale * jax.nn.relu(h * scale) @ kernel
        return h if label is None else h @ params["out"]

    return gd.networks.Network(init=init, apply=apply)


def change(depth_rule, optimizer, inner, rate, depth):
    """Root mean square of the change of the residual stream in four steps."""
    sizes = {"base": {"width": 32, "depth": 2}, "target": {"width": 32, "depth": depth}}
    found = table(residual, **sizes, depth=depth_rule, optimizer=optimizer)
    network = P.network(found, residual)
    tx = P.optimizer(found, inner, learning_rate=rate)
    x = jax.random.normal(jax.random.key(1), (16, 8))
    y = jnp.sin(x.sum(1, keepdims=True))

    @jax.jit
    def moved(key):
        params = start = network.init(key)
        state = tx.init(params)
        for _ in range(4):
            loss = lambda p: jnp.mean((network.apply(p, x, 0.0, None) - y) ** 2)
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
        return jnp.sqrt(jnp.mean((network.apply(params, x, None, None) - network.apply(start, x, None, None)) ** 2))

    return float(np.mean([moved(jax.random.key(seed)) for seed in range(3)]))


@pytest.mark.slow
def test_the_residual_stream_moves_alike_at_every_depth():
    """Slopes in log depth over a factor of eight, measured beside the control in which nothing is scaled."""
    depths = (2, 16)
    slope = lambda rule: (
        np.log2(np.divide(*[change(rule, "adam", optax.scale_by_adam(), 3e-3, d) for d in depths])) / -3
    )
    assert abs(slope("completep")) <= 0.2
    assert abs(slope("depth_mup")) <= 0.2
    assert slope("none") >= 0.5


def test_depth_multiplies_blocks_only_and_needs_a_maker_that_scales_them():
    sizes = {"base": {"width": 4, "depth": 2}, "target": {"width": 8, "depth": 8}}
    by = {rule: table(residual, **sizes, depth=rule) for rule in P.DEPTHS}
    block = {rule: next(row for row in found.rows if row.path == "blocks/5") for rule, found in by.items()}
    assert [block[rule].multipliers.learning_rate for rule in ("completep", "depth_mup", "none")] == [0.5, 0.25, 0.5]
    assert [by[rule].branch_scale for rule in ("completep", "depth_mup", "none")] == [0.25, 0.5, 1.0]
    assert by["completep"].deep == ("depth",)
    assert P.ParamTable.from_json(by["completep"].to_json()) == by["completep"]
    assert {row.m_depth for row in by["completep"].rows if "blocks" not in row.path} == {1.0}
    assert table(residual, **sizes, optimizer="sgd").rows[0].multipliers.learning_rate == 4.0  # L^(2 alpha - 1)
    sp = table(residual, **sizes, rule="sp")
    assert sp.branch_scale == 1
    assert table(residual, **sizes, rule="sp", depth="completep").branch_scale == 0.25
    stiff = lambda width, depth: residual(width, depth)
    with pytest.raises(ValueError, match=r"branch_scale = 0\.25, but its maker does not take branch_scale="):
        P.network(table(stiff, **sizes), stiff)
