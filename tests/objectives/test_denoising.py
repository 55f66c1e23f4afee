"""The denoising objective: its minimiser, its value, its conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn import oracles, predictions
from gendyn.objectives import WEIGHTS, Denoising, noise_levels, weights
from gendyn.predictions import ROWS, EDMPreconditioner, Identity
from gendyn.processes import EDM, PROCESSES, RectifiedFlow
from gendyn.tree import constant, expand

KINDS = [*ROWS, "F"]
MEAN, VARIANCE = 0.7, 0.3
GAUSSIAN = oracles.GaussianMixture([1.0], [[MEAN]], [[VARIANCE]])
INSIDE = noise_levels.UniformLam(low=-1.5, high=1.5)


@constant
class Fixed:
    """One noise level, lam = `lam`."""

    lam: float = 0.3

    def sample(self, process, key, n):
        return jnp.full((n,), process.t_of_lam(np.float64(self.lam)))


def exact_network(process, kind, precondition):
    """apply(params, x, label, cond) answering the exact prediction of the kind, moved by params; the label is t."""

    def apply(params, x, label, cond):
        x = x / expand(precondition.scale(process, label), x)
        t = expand(label, x)
        denoised = GAUSSIAN.denoiser(process)(x, label) + params[0] + params[1] * x
        a, b = predictions.row(kind, precondition, process, t)
        noise = (x - process.alpha(t) * denoised) / process.sigma(t)
        return a * denoised + b * noise

    return apply


def objective(process, kind, **options):
    options = {"precondition": EDMPreconditioner(), "noise_levels": INSIDE, "label": "time"} | options
    return Denoising(process=process, predicts=kind, **options)


@pytest.mark.parametrize("name", ["vp_linear", "rectified_flow"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_minimiser_is_the_posterior_mean(kind, name, x64):
    """At one noise level, by Gauss-Hermite quadrature (exact: the loss is quadratic in data and noise): the gradient at
    the exact network is zero, the curvature is not."""
    process = PROCESSES[name]()
    t = float(process.t_of_lam(np.float64(0.3)))
    nodes, mass = np.polynomial.hermite_e.hermegauss(7)
    mass = np.outer(mass, mass).ravel() / (2 * np.pi)
    data, noise = (g.ravel()[:, None] for g in np.meshgrid(MEAN + np.sqrt(VARIANCE) * nodes, nodes))
    loss = objective(process, kind)
    a, b = predictions.row(kind, loss.precondition, process, t)
    x = jnp.asarray(process.alpha(t) * data + process.sigma(t) * noise)

    def risk(params):
        D = loss.denoiser(exact_network(process, kind, loss.precondition), params)
        return mass @ ((D.output(x, t) - (a * data + b * noise)) ** 2)[:, 0]

    gradient, curvature = jax.jit(lambda params: (jax.grad(risk)(params), jax.hessian(risk)(params)))(jnp.zeros(2))
    np.testing.assert_allclose(gradient, 0.0, atol=1e-11)
    assert np.linalg.eigvalsh(curvature).min() > 1e-3


@pytest.mark.parametrize(
    ("name", "weight"), [("vp_linear", "edm"), ("subvp", "min_snr"), ("edm", "snr"), ("rectified_flow", "sigmoid")]
)
def test_the_loss_does_not_depend_on_the_predicted_kind(name, weight, x64):
    """Same data, noise and levels: a denoised-weighted loss of the same network is one number in all kinds."""
    process = PROCESSES[name]()
    data, params, per_kind = GAUSSIAN.sample(jax.random.key(0), 16), jnp.array([0.2, -0.1]), []
    for kind in KINDS:
        loss = objective(process, kind, weight=WEIGHTS[weight]())
        per_kind.append(loss(exact_network(process, kind, loss.precondition), params, jax.random.key(1), data)[0])
    assert len(np.unique(per_kind[0])) == 16
    for other in per_kind[1:]:
        np.testing.assert_allclose(other, per_kind[0], rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_network_has_the_exact_loss(kind):
    """At one level the loss of the oracle is weight x Var[data | x]: 20,000 draws, 6 standard errors (fixed key)."""
    process, n = EDM(), 20_000
    loss = objective(process, kind, noise_levels=Fixed(), weight=weights.EDM())
    apply = exact_network(process, kind, loss.precondition)
    data = GAUSSIAN.sample(jax.random.key(0), n)
    per_example, aux = loss(apply, jnp.zeros(2), jax.random.key(1), data)
    sigma2 = np.exp(-2 * 0.3)
    expected = (1 / sigma2 + 4) * VARIANCE * sigma2 / (VARIANCE + sigma2)
    assert abs(float(per_example.mean()) - expected) < 6 * float(per_example.std()) / np.sqrt(n)
    np.testing.assert_allclose(aux["lam"], 0.3, rtol=1e-5)


def test_flow_matching_is_the_velocity_objective_of_rectified_flow():
    """|v - (data - noise)|^2 with unit weight: Lipman et al. 2022, eq. 23, at sigma_min = 0, written out."""
    process = RectifiedFlow()
    loss = Denoising(
        process=process,
        predicts="velocity",
        precondition=Identity(),
        noise_levels=noise_levels.UniformT(),
        weight=weights.Uniform(),
    )
    seen = {}

    def network(params, x, label, cond):
        seen.update(x=x, t=label)
        return jnp.sin(3 * x)

    data = jax.random.normal(jax.random.key(0), (8, 2, 3))
    per_example, aux = loss(network, None, jax.random.key(1), data)
    t = seen["t"][:, None, None]
    noise = (seen["x"] - t * data) / (1 - t)
    expected = jnp.mean((jnp.sin(3 * seen["x"]) - (data - noise)) ** 2, axis=(1, 2))
    np.testing.assert_allclose(per_example, expected, rtol=1e-3)
    np.testing.assert_allclose(aux["error"], per_example)
    np.testing.assert_allclose(aux["lam"], process.lam(seen["t"]), rtol=1e-5)


def test_losses_are_per_example_and_one_key_gives_one_loss():
    loss, apply = objective(EDM(), "F"), (lambda params, x, label, cond: params * x)
    data = jax.random.normal(jax.random.key(0), (6, 4, 4, 1))

    def draw(key):
        return loss(apply, jnp.float32(0.3), jax.random.key(key), data)[0]

    assert draw(0).shape == (6,)
    np.testing.assert_array_equal(draw(0), draw(0))
    assert not np.allclose(draw(0), draw(1))
    assert len(np.unique(draw(0))) == 6


@pytest.mark.parametrize(
    ("weight", "name"), list(zip(sorted(WEIGHTS), ["edm", "vp_linear", "rectified_flow", "vp_discrete", "ve", "subvp"]))
)
def test_gradients_of_a_bfloat16_network_are_finite_float32(weight, name):
    def apply(params, x, label, cond):
        return (params * x).astype(jnp.bfloat16)

    loss = objective(PROCESSES[name](), "F", noise_levels=noise_levels.LogNormal(), weight=WEIGHTS[weight]())

    def mean(params):
        return loss(apply, params, jax.random.key(0), jnp.ones((16, 2)))[0].mean()

    value, gradient = jax.jit(jax.value_and_grad(mean))(jnp.float32(0.5))
    assert value.dtype == gradient.dtype == jnp.float32
    assert np.isfinite(gradient)
    assert gradient != 0


# --- Conditions ------------------------------------------------------------------------------------------------


def conditions_seen(drop, null, cond, n):
    seen = []

    def apply(params, x, label, cond):
        seen.append(cond)
        return x

    objective(EDM(), "F", drop=drop, null=null)(apply, None, jax.random.key(0), jnp.zeros((n, 1)), cond)
    return seen[0]


def test_labels_are_dropped_at_the_stated_rate():
    """20,000 examples, 6 standard errors: false alarm below 1e-8 (fixed key)."""
    n = 20_000
    cond = jnp.arange(n) % 10
    seen = conditions_seen(0.15, 10, cond, n)
    dropped = seen == 10
    assert abs(float(dropped.mean()) - 0.15) < 6 * np.sqrt(0.15 * 0.85 / n)
    np.testing.assert_array_equal(jnp.where(dropped, cond, seen), cond)
    assert seen.dtype == cond.dtype


def test_an_example_loses_its_whole_condition_or_none_of_it():
    cond = {"class": jnp.ones(64, int), "text": jnp.ones((64, 3))}
    seen = conditions_seen(0.5, {"class": 10, "text": jnp.zeros(3)}, cond, 64)
    dropped = np.asarray(seen["class"] == 10)
    assert 0 < dropped.sum() < 64
    np.testing.assert_array_equal(seen["text"], np.where(dropped[:, None], np.zeros(3), np.ones(3)))


def test_nothing_is_dropped_by_default_and_everything_at_rate_one():
    cond = jnp.arange(5)
    np.testing.assert_array_equal(conditions_seen(0.0, None, cond, 5), cond)
    np.testing.assert_array_equal(conditions_seen(1.0, 7, cond, 5), jnp.full(5, 7))
    assert conditions_seen(0.5, 7, None, 5) is None


def test_impossible_drops_are_refused():
    with pytest.raises(ValueError, match=r"drop is a probability; got 1\.5"):
        objective(EDM(), "F", drop=1.5, null=0)
    with pytest.raises(ValueError, match="drop > 0 needs null="):
        objective(EDM(), "F", drop=0.1)
