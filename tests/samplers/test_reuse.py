"""Encoder reuse: fresh everywhere it is the plan itself; otherwise an interpreter with a memory says what comes."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendyn as gd
from gendyn import control, processes
from gendyn.samplers import plan, run, run_eager, run_reusing_encoder
from gendyn.training.costs import flops, sampling_flops
from gendyn.tree import pytree

EDM = processes.EDM()
X = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)), jnp.float32) * 80


@pytree
class Halves:
    """A denoiser whose encoder and decoder both depend on the state's noise level, the encoder alone on the state."""

    weight: jax.Array

    def encode(self, x, t, cond=None):
        return {"h": jnp.tanh(self.weight * x / (1 + t)), "level": jnp.log(t)}

    def decode(self, encoded, x, t, cond=None):
        return 0.3 * encoded["h"] + 0.02 * encoded["level"] + 0.1 * jnp.cos(t) + 0.01 * x / (1 + t)

    def __call__(self, x, t, cond=None):
        return self.decode(self.encode(x, t, cond), x, t, cond)


D = Halves(weight=jnp.float32(1.7))
PLANS = {
    "heun": plan("heun", EDM, nfe=7),
    "dpmpp_2m": plan("dpmpp_2m", EDM, nfe=7),
    "padded": plan("dpmpp_2m", EDM, nfe=7).pad(rows=9),
    "ancestral": plan("ancestral", EDM, nfe=7),
}
each = pytest.mark.parametrize("name", PLANS)


@each
def test_fresh_everywhere_it_is_run(name):
    noise = jax.random.normal(jax.random.key(0), (PLANS[name].rows, *X.shape))
    every = run_reusing_encoder(PLANS[name], D, X, range(7), noise=noise)
    np.testing.assert_allclose(every, run(PLANS[name], D, X, noise=noise), rtol=1e-6, atol=1e-6)


class Remembering:
    """The call in plain Python, with the features of the last fresh call in an attribute."""

    def __init__(self, fresh):
        self.fresh, self.calls = fresh, 0

    def __call__(self, x, t):
        if self.calls in self.fresh:
            self.features = D.encode(x, t)
        self.calls += 1
        return D.decode(self.features, x, t)


@each
@pytest.mark.parametrize("fresh", [(0,), (0, 1, 4)])
def test_features_are_those_of_the_last_fresh_call(name, fresh):
    noise = jax.random.normal(jax.random.key(0), (PLANS[name].rows, *X.shape))
    ours = run_reusing_encoder(PLANS[name], D, X, fresh, noise=noise)
    interpreted = run_eager(PLANS[name], Remembering(fresh), X, noise=noise)
    np.testing.assert_allclose(ours, interpreted, rtol=2e-5, atol=2e-5)
    assert float(abs(ours - run(PLANS[name], D, X, noise=noise)).max()) > 1e-3


def test_encoder_and_decoder_are_called_as_often_as_said():
    calls = {"encode": 0, "decode": 0}

    def count(name):
        calls[name] += 1

    @pytree
    class Counting(Halves):
        def encode(self, x, t, cond=None):
            jax.debug.callback(partial(count, "encode"))
            return super().encode(x, t, cond)

        def decode(self, encoded, x, t, cond=None):
            jax.debug.callback(partial(count, "decode"))
            return super().decode(encoded, x, t, cond)

    counting = Counting(weight=D.weight)
    jax.block_until_ready(run_reusing_encoder(PLANS["padded"], counting, X, (0, 3)))
    jax.effects_barrier()
    assert calls == {"encode": 2, "decode": 7}


def test_observations_and_gradients():
    """Stacked over rows as in `run`; the gradient in the weights is that of finite differences."""
    first = lambda weight: run_reusing_encoder(PLANS["heun"], Halves(weight=weight), X, (0, 3)).sum()
    slope = jax.grad(first)(D.weight)
    step = 1e-2
    np.testing.assert_allclose(slope, (first(D.weight + step) - first(D.weight - step)) / (2 * step), rtol=2e-2)
    _, seen = run_reusing_encoder(PLANS["heun"], D, X, (0, 3), observe=lambda row, x, denoised: denoised)
    assert seen.shape == (PLANS["heun"].rows, *X.shape)


def test_other_fresh_calls_share_a_program():
    from gendyn.samplers.reuse import _execute

    run_reusing_encoder(PLANS["heun"], D, X, (0, 3))
    before = _execute._cache_size()
    run_reusing_encoder(PLANS["heun"], D, X, (0, 5, 6))
    assert _execute._cache_size() == before


@pytest.mark.parametrize("fresh", [(), (1, 2), (0, 7)])
def test_calls_that_are_not_there_are_refused(fresh):
    with pytest.raises(ValueError, match="0 to 6 for this plan"):
        run_reusing_encoder(PLANS["heun"], D, X, fresh)


def test_denoisers_without_halves_are_refused():
    with pytest.raises(ValueError, match=r"encode\(x, t, cond\)"):
        run_reusing_encoder(PLANS["heun"], lambda x, t, cond: x, X, (0,))
    plain = gd.denoiser(lambda params, x, label, cond: params * x, jnp.ones(()), EDM, "denoised")
    with pytest.raises(ValueError, match="no encoder and decoder to call apart"):
        run_reusing_encoder(PLANS["heun"], plain, X, (0,))


# --- A network -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unet():
    """(denoiser, x_T, classes) of a small conditional U-Net with parameters of order 0.3."""
    make = partial(gd.networks.UNet, 1, 1, width=4, multipliers=(1,), blocks=1, attention=(), num_classes=2)
    network = gd.networks.functional(make)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32), shapes)
    own = gd.denoiser(network.apply, params, EDM, "F", precondition=gd.predictions.EDMPreconditioner())
    return own, 80 * jnp.asarray(rng.standard_normal((2, 4, 1)), jnp.float32), jnp.array([0, 1])


def test_guided_networks_reuse_both_branches(unet):
    own, x_T, classes = unet
    guided = control.cfg(own, 2.0, 2, interval=(0.5, 10.0))
    short = plan("ddim", EDM, nfe=3)
    every = run_reusing_encoder(short, guided, x_T, range(3), cond=classes)
    np.testing.assert_allclose(every, run(short, guided, x_T, cond=classes), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_models_that_guide_each_other_reuse_both_encoders(unet):
    own, x_T, classes = unet
    worse = dataclasses.replace(own, params=jax.tree.map(lambda leaf: 0.9 * leaf, own.params))
    guided = control.autoguidance(own, worse, 2.0)
    inputs = (x_T, 2.0, classes)
    apart, together = jax.jit(lambda D: (D.decode(D.encode(*inputs), *inputs), D(*inputs)))(guided)
    np.testing.assert_allclose(apart, together, rtol=1e-5, atol=1e-5)


def test_flops_of_a_run_are_those_of_its_calls(unet):
    own, x_T, classes = unet
    short = plan("ddim", EDM, nfe=6)
    full, reused = (sampling_flops(short, own, x_T, classes, fresh) for fresh in (None, range(0, 6, 2)))
    params, label = own.params, jnp.zeros(2)
    whole = flops(own.apply, params, x_T, label, classes)
    encoder = flops(own.apply.encode, params, x_T, label, classes)
    told = flops(lambda p: own.apply.blueprint.module(p).conditioning(label, classes, 2), params)
    assert full == 6 * whole
    assert reused == 6 * whole - 3 * encoder + 6 * told  # the decoder too is told its level
    assert encoder < whole
