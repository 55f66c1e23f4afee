"""Skip-Tuning as a function from denoiser to denoiser."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendyn as gd
from gendyn import control, processes
from gendyn.samplers import plan, run

EDM = processes.EDM()


@pytest.fixture(scope="module")
def case():
    """(denoiser, x): a small conditional U-Net with parameters of order 0.3."""
    make = partial(gd.networks.UNet, 1, 1, width=4, multipliers=(1,), blocks=1, attention=(), num_classes=2)
    network = gd.networks.functional(make)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32), shapes)
    own = gd.denoiser(network.apply, params, EDM, "F", precondition=gd.predictions.EDMPreconditioner())
    return own, jnp.asarray(rng.standard_normal((2, 4, 1)), jnp.float32)


def call(D, x, cond=None):
    return jax.jit(lambda D, x: D(x, 0.7, cond))(D, x)


def test_one_is_the_denoiser_itself(case):
    D, x = case
    np.testing.assert_allclose(call(control.skip_tuning(D, 1.0), x), call(D, x), rtol=1e-5, atol=1e-6)


def test_the_tuned_denoiser_is_the_network_with_scaled_skips_preconditioned_as_before(case):
    """c_skip x + c_out F with F by hand: EDM's coefficients at sigma 0.7 and sigma_data 0.5."""
    D, x = case
    norm = np.sqrt(0.7**2 + 0.5**2)
    label = jnp.full(2, np.log(0.7) / 4)
    encoded = jax.jit(D.apply.encode)(D.params, x / norm, label)
    F = jax.jit(partial(D.apply.decode, skip_scale=(0.5, 0.8)))(D.params, encoded, label)
    expected = 0.25 / norm**2 * x + 0.35 / norm * F
    tuned = call(control.skip_tuning(D, (0.5, 0.8)), x)
    np.testing.assert_allclose(tuned, expected, rtol=1e-4, atol=1e-5)
    assert float(abs(tuned - call(D, x)).max()) > 1e-3


def test_scales_are_leaves(case):
    """Another scale does not compile again, and the slope in it is that of finite differences."""
    D, x = case
    traces = []

    @jax.jit
    def energy(scale):
        traces.append(None)
        return control.skip_tuning(D, scale)(x, 0.7).sum()

    slope = jax.grad(energy)(jnp.float32(0.8))
    before = len(traces)
    difference = (energy(jnp.float32(0.81)) - energy(jnp.float32(0.79))) / 0.02
    assert len(traces) <= before + 1
    np.testing.assert_allclose(slope, difference, rtol=0.02)


def test_it_composes_with_guidance_and_plans(case):
    """Guided between its two branches, each tuned."""
    D, x = case
    tuned, classes = control.skip_tuning(D, (0.6, 1.0)), jnp.array([0, 1])
    guided = run(plan("ddim", EDM, nfe=2), control.cfg(tuned, 1.5, 2), 80 * x, cond=classes)

    def by_hand(x, t, cond):
        own, null = tuned(x, t, cond), tuned(x, t, jnp.full(2, 2))
        return null + 1.5 * (own - null)

    np.testing.assert_allclose(
        guided, run(plan("ddim", EDM, nfe=2), by_hand, 80 * x, cond=classes), rtol=1e-4, atol=1e-5
    )


def test_what_has_no_halves_is_refused(case):
    D, _ = case
    with pytest.raises(ValueError, match="Guidance goes around it"):
        control.skip_tuning(control.cfg(D, 2.0, 2), 0.8)
    with pytest.raises(ValueError, match="once, with the product"):
        control.skip_tuning(control.skip_tuning(D, 0.8), 0.8)
