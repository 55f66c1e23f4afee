"""The interpolant objective: its minimisers are the exact fields, and antithetic noise keeps its gradient bounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn.objectives import Interpolation
from gendyn.objectives.interpolation import TARGETS, Antithetic, Plain
from gendyn.oracles import GaussianMixture, TwoSided
from gendyn.processes import INTERPOLANTS
from gendyn.tree import expand

BASE = GaussianMixture([1.0], [[-1.0]], [[0.5]])
DATA = GaussianMixture([0.4, 0.6], [[0.3], [1.5]], [[0.2], [0.1]])
EXACT = TwoSided(base=BASE, data=DATA)
PROCESS = INTERPOLANTS["linear_bridge"]()


def exact_network(predicts):
    """The exact fields stacked on channels, each moved by params."""

    def apply(params, x, t, cond):
        velocity, eta = EXACT.fields(PROCESS).both(x, t)
        time = expand(t, x)
        values = {
            "velocity": velocity,
            "eta": eta,
            "v": velocity - PROCESS.dgamma(time) * eta,
            "score": -eta / PROCESS.gamma(time),
        }
        moved = [values[kind] + params[2 * i] + params[2 * i + 1] * x for i, kind in enumerate(predicts)]
        return jnp.concatenate(moved, -1)

    return apply


def gradients(loss, seeds, n=4096):
    apply = exact_network(loss.predicts)

    @jax.jit
    def one(key):
        ends = [m.sample(jax.random.fold_in(key, i), n) for i, m in enumerate((BASE, DATA))]
        mean = lambda p: loss(apply, p, key, ends[1], base=ends[0])[0].mean()
        return jax.grad(mean)(jnp.zeros(2 * len(loss.predicts)))

    return np.stack([one(jax.random.key(i)) for i in range(seeds)])


@pytest.mark.parametrize("predicts", [("velocity", "eta"), ("v", "score"), ("v", "eta")], ids="-".join)
def test_gradient_vanishes_at_the_exact_fields(predicts):
    """Means over 24 batches, in standard errors; one of four exceeds 4.8 for one key in 4000 (t, 23 degrees)."""
    grads = gradients(Interpolation(process=PROCESS, predicts=predicts, margin=0.02), 24)
    z = grads.mean(0) / (grads.std(0, ddof=1) / np.sqrt(24))
    assert np.abs(z).max() < 4.8


def test_gradient_does_not_vanish_elsewhere():
    wrong = Interpolation(process=INTERPOLANTS["linear_sine"](), margin=0.02)
    grads = gradients(wrong, 8)
    assert np.abs(grads.mean(0) / (grads.std(0, ddof=1) / np.sqrt(8))).max() > 10


def test_antithetic_noise_keeps_the_variance_bounded_at_the_ends():
    """Velocity of a bridge: the target's variance is 1/(4 t), which shows in the plain gradient, not in this one."""
    spread = {}
    for estimator in (Plain(), Antithetic()):
        for margin in (0.1, 1e-6):
            loss = Interpolation(process=PROCESS, predicts=("velocity",), estimator=estimator, margin=margin)
            spread[type(estimator).__name__, margin] = gradients(loss, 48, n=256).std(0).max()
    assert spread["Antithetic", 1e-6] < 2 * spread["Antithetic", 0.1]
    assert spread["Plain", 1e-6] > 1.5 * spread["Antithetic", 1e-6]


@pytest.mark.slow
def test_a_regressed_table_approaches_the_exact_fields():
    """At one time, a polynomial in x fitted by the objective's own normal equations comes to the exact velocity."""
    loss = Interpolation(process=PROCESS, predicts=("velocity", "eta"), margin=0.49999)
    powers = lambda x: x ** jnp.arange(8)
    apply = lambda params, x, t, cond: powers(x) @ params
    n = 200_000
    ends = [m.sample(jax.random.key(i), n) for i, m in enumerate((BASE, DATA))]
    value = lambda p: loss(apply, p, jax.random.key(7), ends[1], base=ends[0])[0].mean()
    zero = jnp.zeros((8, 2))
    hessian, gradient = jax.hessian(value)(zero).reshape(16, 16), jax.grad(value)(zero).reshape(16)
    params = np.linalg.lstsq(np.asarray(hessian, np.float64), -np.asarray(gradient, np.float64), rcond=1e-8)[0]
    x = np.linspace(-1.2, 1.2, 13)[:, None]
    ours = np.asarray(powers(x)) @ params.reshape(8, 2)
    exact = np.concatenate(EXACT.fields(PROCESS).both(x, 0.5), -1)
    np.testing.assert_allclose(ours, exact, atol=0.06)


def test_what_is_trained_is_a_model_of_both_fields():
    loss = Interpolation(process=PROCESS, predicts=("v", "eta"))
    model = loss.denoiser(exact_network(("v", "eta")), jnp.zeros(4))
    x, t = jnp.array([[0.3], [-1.0]]), 0.4
    np.testing.assert_allclose(model(x, t), EXACT.fields(PROCESS)(x, t), rtol=1e-5)
    np.testing.assert_allclose(model.score(x, t), EXACT.score(PROCESS, x, jnp.asarray(t)), rtol=1e-5)


@pytest.mark.parametrize("predicts", [("eta",), ("v",), ("velocity", "flow"), ()])
def test_fields_that_are_no_dynamics_are_refused(predicts):
    with pytest.raises(ValueError, match="predicts must name fields"):
        Interpolation(process=PROCESS, predicts=predicts)


def test_a_network_of_the_wrong_width_is_told_which():
    loss = Interpolation(process=PROCESS)
    with pytest.raises(ValueError, match="out_channels=2"):
        loss(lambda p, x, t, cond: x, None, jax.random.key(0), jnp.zeros((4, 1)), base=jnp.zeros((4, 1)))


def test_targets_follow_from_the_path(x64):
    """d/dt of the path between fixed ends and noise is the velocity's target; v leaves out the noise."""
    t = jnp.array([0.2, 0.6])
    base, data, noise = (jnp.array([v, v]) for v in (-1.0, 2.0, 0.5))
    rate = jax.vmap(jax.grad(lambda t, a, b, z: PROCESS.a(t) * a + PROCESS.b(t) * b + PROCESS.gamma(t) * z))(
        t, base, data, noise
    )
    curve = PROCESS.da(t) * base + PROCESS.db(t) * data
    p, q = TARGETS["velocity"](PROCESS, t)
    np.testing.assert_allclose(p * curve + q * noise, rate, rtol=1e-12)
