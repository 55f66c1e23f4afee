"""The restoration objective: what the network sees, its minimiser, its denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendyn as gd
from gendyn.objectives import Denoising, Restoration, noise_levels
from gendyn.predictions import Identity
from gendyn.processes import MeanReverting

PROCESS = MeanReverting(sigma_inf=0.5)
VARIANCE = 0.2


def objective(**options):
    options = {"predicts": "denoised", "precondition": Identity(), "noise_levels": noise_levels.UniformT()} | options
    return Restoration(denoising=Denoising(process=PROCESS, **options))


def expected(mu):
    """E[data | mu] of the toy law data ~ N(0.3 + 1.5 mu, VARIANCE)."""
    return 0.3 + 1.5 * mu


def exact(params, x, label, cond):
    """The exact deviation E[data | x, mu] - mu by Gaussian conditioning in x-space, moved by params; label is t."""
    x, mu = x[..., :1], x[..., 1:]
    alpha, sigma = PROCESS.alpha(label)[:, None], PROCESS.sigma(label)[:, None]
    gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    data = expected(mu) + gain * (x - alpha * expected(mu) - (1 - alpha) * mu)
    return data - mu + params[0] + params[1] * x + params[2] * mu


def draw(n, key=0):
    key_mu, key_data = jax.random.split(jax.random.key(key))
    mu = jax.random.normal(key_mu, (n, 1))
    return expected(mu) + np.sqrt(VARIANCE) * jax.random.normal(key_data, (n, 1)), mu


def test_the_gradient_vanishes_at_the_exact_network():
    """Per-example gradients over 20,000 draws: within 6 standard errors of zero (fixed keys), far off elsewhere."""
    data, mu = draw(20_000)
    loss = objective()

    def mean(params, scale):
        per_example, _ = loss(exact, params, jax.random.key(1), data, None, mu=mu)
        return jnp.mean(scale * per_example)

    gradient = jax.jit(jax.grad(lambda params: mean(params, 1.0)))
    # Signs drawn at random turn the mean into one draw of its own Monte-Carlo error.
    signs = jax.random.rademacher(jax.random.key(2), (16, len(data)), float)
    errors = jax.jit(jax.vmap(jax.grad(mean), (None, 0)))(jnp.zeros(3), signs)
    spread = np.sqrt(np.mean(np.square(errors), axis=0))
    assert (np.abs(gradient(jnp.zeros(3))) < 6 * spread).all()
    assert np.abs(gradient(jnp.array([0.3, 0.0, 0.0]))[0]) > 20 * spread[0]


def test_the_network_sees_the_state_and_mu_on_the_channels():
    seen = {}

    def network(params, x, label, cond):
        seen.update(x=x, label=label, cond=cond)
        return x[..., :1]

    data, mu = draw(6)
    _, aux = objective()(network, None, jax.random.key(0), data, jnp.arange(6), mu=mu)
    assert seen["x"].shape == (6, 2)
    np.testing.assert_allclose(seen["x"][:, 1:], mu)
    np.testing.assert_array_equal(seen["cond"], jnp.arange(6))
    alpha, sigma = PROCESS.alpha(seen["label"])[:, None], PROCESS.sigma(seen["label"])[:, None]
    noise = (seen["x"][:, :1] - alpha * data - (1 - alpha) * mu) / sigma
    assert 0.1 < float(jnp.abs(noise).mean()) < 2
    np.testing.assert_allclose(aux["lam"], PROCESS.lam(seen["label"]), rtol=1e-5)


def test_dropout_is_on_in_the_loss_and_off_in_the_denoiser():
    network = gd.networks.Network(
        init=lambda key: None,
        apply=lambda params, x, label, cond: x[..., :1],
        train=lambda params, x, label, cond, key: x[..., :1] * jax.random.bernoulli(key, 0.5, x[..., :1].shape),
    )
    data, mu = draw(5)
    losses = [objective()(net, None, jax.random.key(3), data, None, mu=mu)[0] for net in (network, network.apply)]
    assert not np.allclose(*losses)


def test_the_denoiser_is_the_exact_posterior_mean_in_x():
    D, (data, mu) = objective().denoiser(exact, jnp.zeros(3)), draw(4)
    alpha, sigma = PROCESS.alpha(0.4), PROCESS.sigma(0.4)
    x = alpha * data + (1 - alpha) * mu + 0.2 * sigma
    gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    posterior = expected(mu) + gain * (x - alpha * expected(mu) - (1 - alpha) * mu)
    np.testing.assert_allclose(D(x, 0.4, {"mu": mu}), posterior, rtol=1e-5)
    assert D.process == PROCESS
    plan = gd.plan("dpmpp_2m", PROCESS, nfe=8)
    restored = gd.control.restore(plan, D, mu, jax.random.key(0), cond={"mu": mu})
    assert np.isfinite(restored).all()


def test_the_restored_have_the_posterior_law():
    """One mu, 4,000 restorations with 32 calls: mean and variance of data given mu, to 6 standard errors and
    the solver's 3 % (fixed key)."""
    n = 4000
    mu = jnp.full((n, 1), 0.4)
    D = objective().denoiser(exact, jnp.zeros(3))
    plan = gd.plan("dpmpp_2m", PROCESS, nfe=32)
    x = gd.control.restore(plan, D, mu, jax.random.key(0), cond={"mu": mu})
    assert abs(float(x.mean()) - float(expected(0.4))) < 6 * np.sqrt(VARIANCE / n) + 0.01
    assert abs(float(x.var()) / VARIANCE - 1) < 6 * np.sqrt(2 / n) + 0.03


def test_misuse_is_refused_in_words():
    D = objective().denoiser(exact, jnp.zeros(3))
    with pytest.raises(ValueError, match="restores degraded images: pass cond="):
        D(jnp.zeros((2, 1)), 0.5)
    with pytest.raises(ValueError, match=r"mu must be shaped like the data, \(2, 1\); got \(2, 2\)"):
        objective()(exact, jnp.zeros(3), jax.random.key(0), jnp.zeros((2, 1)), None, mu=jnp.zeros((2, 2)))
    with pytest.raises(ValueError, match="drops no condition"):
        objective(drop=0.1, null=3)
    with pytest.raises(ValueError, match=r"guidance 2 was asked of a restoration model"):
        gd.training.guided(D, 2.0, 10)
