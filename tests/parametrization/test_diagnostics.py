"""Sharpness of known Hessians and of muP at several widths; noise scales of known gradients; spectra; conversions."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gendyn as gd

P = gd.parametrization


def test_sharpness_is_the_top_eigenvalue_of_a_dense_hessian():
    """Also with a preconditioner, where it is that of P^1/2 H P^1/2."""
    key = jax.random.key(0)
    params = {"a": jax.random.normal(key, (5, 3)), "b": jnp.ones(3)}
    x = jax.random.normal(jax.random.key(1), (20, 5))
    loss = lambda p: jnp.mean(jnp.tanh(x @ p["a"] + p["b"]) ** 2 * jnp.arange(3))
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    dense = np.asarray(jax.hessian(lambda v: loss(unravel(v)))(flat))
    assert P.sharpness(loss, params) == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-3)
    scale = {"a": 0.25, "b": jnp.array([1.0, 2.0, 3.0])}
    root = np.sqrt(np.concatenate([np.full(15, 0.25), [1.0, 2.0, 3.0]]))
    expected = np.linalg.eigvalsh(root[:, None] * dense * root)[-1]
    assert P.sharpness(loss, params, scale=scale) == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match="not finite"):
        P.sharpness(loss, jax.tree.map(lambda p: p * jnp.nan, params))


def perceptron(width):
    return gd.networks.functional(partial(gd.networks.MLP, 4, width=width, depth=1))


def curvatures(rule, widths=(32, 128)):
    """Sharpness that SGD feels at initialisation, mean over two seeds, at each width."""
    x, y, t = jax.random.normal(jax.random.key(1), (64, 4)), jax.random.normal(jax.random.key(2), (64, 4)), jnp.ones(64)
    found = []
    for width in widths:
        table = P.table(perceptron, base={"width": 32}, target={"width": width}, rule=rule, optimizer="sgd")
        network = P.network(table, perceptron)
        loss = lambda p, network=network: jnp.mean((network.apply(p, x, t, None) - y) ** 2)
        each = []
        for seed in range(2):
            params = network.init(jax.random.key(seed))
            each.append(P.sharpness(loss, params, scale=table.tree("learning_rate", params), tolerance=1e-2))
        found.append(np.mean(each))
    return np.polyfit(np.log2(widths), np.log2(found), 1)[0]


@pytest.mark.slow
def test_sharpness_does_not_depend_on_the_width_under_mup_and_grows_under_sp():
    """Slopes in log2(width); the readout is zero, so that at initialisation only its own curvature is there."""
    assert abs(curvatures("mup")) < 0.1
    assert curvatures("sp") > 0.7


def test_what_adam_feels_is_what_it_multiplies_gradients_by():
    """A small step along -P g, with P from its state: the update of the next step without momentum."""
    table = P.table(perceptron, base={"width": 8}, target={"width": 32})
    params = P.network(table, perceptron).init(jax.random.key(0))
    tx = P.optimizer(table, optax.scale_by_adam(b1=0.0, eps=1e-4), learning_rate=0.1)
    state, gradient = tx.init(params), jax.tree.map(lambda p: jax.random.normal(jax.random.key(3), p.shape), params)
    for _ in range(3):
        updates, state = tx.update(gradient, state, params)
    scale = P.adam_scale(state, table, eps=1e-4)
    expected = jax.tree.map(lambda g, s: -0.1 * s * g, gradient, scale)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), updates, expected)
    with pytest.raises(ValueError, match="after one step"):
        P.adam_scale(tx.init(params))
    with pytest.raises(ValueError, match="state of an Adam"):
        P.adam_scale(optax.EmptyState())


def test_noise_scale_is_unbiased():
    """Gradients p - x of a known law: tr(Sigma) = 2 + 8 and |G|^2 = 1 + 4, averaged over many steps of few rows."""
    rng = np.random.default_rng(0)
    loss = lambda p, rows: 0.5 * jnp.mean(jnp.sum((p - rows) ** 2, axis=1))
    estimate = jax.jit(lambda rows: P.noise_scale(loss, jnp.zeros(2), rows, parts=4))
    total = P.NoiseScale(noise=jnp.zeros(()), signal=jnp.zeros(()))
    for _ in range(2000):
        rows = np.array([1.0, 2.0]) + rng.standard_normal((8, 2)) * np.sqrt([2.0, 8.0])
        total = total + estimate(jnp.asarray(rows, jnp.float32))
    assert float(total.noise / 2000) == pytest.approx(10.0, rel=0.05)
    assert float(total.signal / 2000) == pytest.approx(5.0, rel=0.05)
    assert float(total.critical) == pytest.approx(2.0, rel=0.08)
    with pytest.raises(ValueError, match="divide the batch"):
        P.noise_scale(loss, jnp.zeros(2), jnp.ones((9, 2)), parts=2)
    assert float(P.NoiseScale(noise=jnp.ones(()), signal=-jnp.ones(())).critical) == float("inf")


def test_spectra():
    """Of a kernel with known singular values, also of a convolution, whose rows are its fan-in."""
    u, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((18, 4)))
    kernel = jnp.asarray(u * np.array([5.0, 1.0, 0.5, 0.1]), jnp.float32).reshape(3, 3, 2, 4)
    found = P.singular_values({"conv": kernel, "bias": jnp.ones(4)})
    assert set(found) == {"conv"}
    assert found["conv"].top == pytest.approx(5.0, rel=1e-5)
    assert found["conv"].relative == pytest.approx(5.0 * np.sqrt(18 / 4), rel=1e-5)


def test_gradients_over_eps_keep_their_ratio_under_a_table():
    """A table's eps multiplier divides the gradient, so that the ratio grows by its inverse."""
    table = P.table(perceptron, base={"width": 8}, target={"width": 32})
    gradient = jax.tree.map(lambda p: jnp.full(p.shape, 1e-6), perceptron(32).init(jax.random.key(0)))
    plain, scaled = P.gradients_over_eps(gradient), P.gradients_over_eps(gradient, table)
    for row in table.rows:
        assert plain[row.path] == pytest.approx(100.0, rel=1e-4)
        assert scaled[row.path] == pytest.approx(100.0 / row.multipliers.eps, rel=1e-4)


def test_conversions_keep_what_they_say():
    """SGD's rate far below the critical batch follows the batch, far above it stays; decays keep their products."""
    assert P.rate_for_batch(1.0, 10, 40, critical=1e9, optimizer="sgd") == pytest.approx(4.0, rel=1e-6)
    assert P.rate_for_batch(1.0, 1e6, 4e6, critical=10, optimizer="sgd") == pytest.approx(1.0, rel=1e-4)
    assert P.rate_for_batch(1.0, 10, 40, critical=1e9) == pytest.approx(2.0, rel=1e-6)
    new = P.decay_for_rate(0.1, 1e-3, 4e-3)
    assert P.timescale(4e-3, new) == pytest.approx(P.timescale(1e-3, 0.1))
    longer = P.decay_for_horizon(0.1, 100, 700)
    assert P.timescale(1e-3, longer) / 700 == pytest.approx(P.timescale(1e-3, 0.1) / 100)
    for call in (
        lambda: P.rate_for_batch(1.0, 0, 4, critical=1.0),
        lambda: P.decay_for_horizon(0.1, 0, 4),
        lambda: P.decay_for_rate(0.1, 1.0, 0.0),
    ):
        with pytest.raises(ValueError, match="got"):
            call()
