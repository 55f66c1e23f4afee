"""Every interpolant: its ends, its derivatives, its exact fields; and the one-sided ones as Gaussian paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn import samplers
from gendyn.oracles import GaussianMixture, TwoSided
from gendyn.processes import GVP, INTERPOLANTS, Interpolant, OneSided, RectifiedFlow, describe, fields, from_description
from gendyn.processes import interpolants as si

BASE = GaussianMixture([0.5, 0.5], [[-1.5, 0.0], [-0.5, 1.0]], [[0.2, 0.1], [0.1, 0.3]])
DATA = GaussianMixture([0.3, 0.7], [[1.0, -0.5], [0.5, 1.0]], [[0.1, 0.2], [0.3, 0.05]])
EXACT = TwoSided(base=BASE, data=DATA)
T = np.array([0.07, 0.2, 0.45, 0.61, 0.9])


@pytest.fixture(params=sorted(INTERPOLANTS))
def process(request):
    return INTERPOLANTS[request.param]()


def points(t=T, n=4):
    x = np.random.default_rng(0).standard_normal((n, 2))
    return jnp.asarray(np.tile(x, (len(t), 1))), jnp.asarray(np.repeat(t, n))


def test_ends_are_the_base_and_the_data(process):
    base, data = jnp.full((3, 2), -2.0), jnp.full((3, 2), 3.0)
    mirrored = isinstance(process.path, si.Mirror)
    for t, end in ((0.0, data if mirrored else base), (1.0, data)):
        x, _ = process.perturb(jax.random.key(0), base, data, t)
        np.testing.assert_allclose(x, end, atol=1e-6)


def test_derivatives_are_those_of_the_coefficients(process, x64):
    t = jnp.asarray(T)
    for name in ("a", "b", "gamma"):
        automatic = jax.vmap(jax.grad(lambda t, name=name: jnp.asarray(getattr(process, name)(t)) + 0 * t))(t)
        np.testing.assert_allclose(getattr(process, "d" + name)(t), automatic, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(process.gamma_dgamma(t), process.gamma(t) * process.dgamma(t), rtol=1e-12, atol=1e-14)


def test_the_array_module_follows_the_input(process):
    for name in ("a", "b", "gamma", "da", "db", "dgamma"):
        host, device = getattr(process, name)(T), getattr(process, name)(jnp.asarray(T, jnp.float32))
        assert np.asarray(host).dtype == np.float64
        assert isinstance(device, jax.Array)
        np.testing.assert_allclose(device, host, rtol=1e-4, atol=1e-6)


def test_a_user_path_is_the_built_in_one():
    own = Interpolant(
        path=si.UserPath(a=lambda t: 1 - t, b=lambda t: t),
        latent=si.UserLatent(function=lambda t: jnp.sin(jnp.pi * t) ** 2),
    )
    theirs = INTERPOLANTS["linear_sine"]()
    for name in ("a", "b", "gamma", "da", "db", "dgamma"):
        np.testing.assert_allclose(getattr(own, name)(T), getattr(theirs, name)(T), rtol=1e-12, atol=1e-13)
    with pytest.raises(ValueError, match="holds functions"):
        describe(own)


def test_described_and_back(process):
    assert from_description(describe(process)) == process


def test_score_is_the_gradient_of_the_log_density(process, x64):
    x, t = points()
    gradient = jax.grad(lambda x: EXACT.log_prob(process, x, t).sum())(x)
    np.testing.assert_allclose(EXACT.score(process, x, t), gradient, rtol=1e-9, atol=1e-11)
    if not isinstance(process.latent, si.NoLatent):
        np.testing.assert_allclose(EXACT.fields(process).score(x, t), gradient, rtol=1e-7, atol=1e-9)


def test_continuity_equation_and_divergence(process, x64):
    """d log p/dt + velocity . score + div velocity = 0, and the divergence is the trace of the Jacobian."""
    x, t = points()
    velocity = EXACT.fields(process)
    rate = jax.grad(lambda t: EXACT.log_prob(process, x, t).sum())(t)
    transport = (velocity(x, t) * EXACT.score(process, x, t)).sum(-1)
    divergence = EXACT.divergence(process, x, t)
    terms = np.stack([rate, transport, divergence])
    assert (np.abs(terms.sum(0)) < 1e-8 * np.abs(terms).max(0).clip(1e-3)).all()
    jacobian = jax.vmap(jax.jacfwd(lambda x, t: velocity(x[None], t)[0]))(x, t)
    np.testing.assert_allclose(divergence, jnp.trace(jacobian, axis1=1, axis2=2), rtol=1e-8, atol=1e-10)


def test_fields_are_finite_at_both_ends(process):
    x = np.random.default_rng(0).standard_normal((3, 2))
    for t in (0.0, 1.0):
        assert np.isfinite(EXACT.fields(process)(x, t)).all()


def test_the_mirror_runs_against_its_own_score(x64):
    process = INTERPOLANTS["mirror"]()
    x, t = points()
    expected = -process.gamma_dgamma(t)[:, None] * EXACT.score(process, x, t)
    np.testing.assert_allclose(EXACT.fields(process)(x, t), expected, rtol=1e-11)


def test_a_standard_normal_base_makes_a_gaussian_path(x64):
    """Two-sided fields from N(0, I) are those of the one-sided Gaussian path, latent included."""
    normal = GaussianMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]])
    x, t = points()
    for name in ("linear_bridge", "trigonometric", "trigonometric_bridge"):
        process = INTERPOLANTS[name]()
        path = process.one_sided()
        ours = TwoSided(base=normal, data=DATA).fields(process)(x, t)
        np.testing.assert_allclose(ours, DATA.velocity(path)(x, t), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("name", "known"), [("linear", RectifiedFlow()), ("trigonometric", GVP())])
def test_one_sided_paths_of_the_literature(name, known):
    path = INTERPOLANTS[name]().one_sided()
    for method in ("alpha", "sigma", "dalpha", "dsigma", "lam"):
        np.testing.assert_allclose(getattr(path, method)(T), getattr(known, method)(T), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(path.t_of_lam(known.lam(T)), T, rtol=1e-13)


@pytest.mark.parametrize("name", ["encoding_decoding", "mirror"])
def test_paths_that_forget_the_data_are_no_gaussian_paths(name):
    with pytest.raises(ValueError, match="alpha/sigma to rise"):
        OneSided(interpolant=INTERPOLANTS[name]())


@pytest.mark.parametrize(
    "diffusion", [fields.Constant(), fields.OfGamma(scale=0.7), fields.Sine()], ids=lambda d: type(d).__name__
)
def test_drifts_keep_the_fokker_planck_equation(diffusion, x64):
    """d p/dt = -div(drift p) + eps laplace p, divided by p, for the forward drift; the backward one with -eps."""
    process = INTERPOLANTS["linear_bridge"]()
    x, t = points()
    rate = jax.grad(lambda t: EXACT.log_prob(process, x, t).sum())(t)
    score = lambda x, t: EXACT.score(process, x, t)
    trace = lambda f: jnp.trace(jax.vmap(jax.jacfwd(lambda x, t: f(x[None], t)[0]))(x, t), axis1=1, axis2=2)
    s = score(x, t)
    laplace = (s**2).sum(-1) + trace(score)
    for direction, sign in (("forward", 1), ("backward", -1)):
        drift = EXACT.drift(process, diffusion, direction)
        flux = -(drift(x, t) * s).sum(-1) - trace(drift)
        np.testing.assert_allclose(rate, flux + sign * diffusion.eps(process, t) * laplace, rtol=1e-7, atol=1e-8)


def test_a_model_without_eta_runs_its_ode_only():
    model = fields.Fields(both=lambda x, t, cond: (x, None), process=INTERPOLANTS["linear"]())
    assert model(jnp.ones((1, 2)), 0.5).shape == (1, 2)
    with pytest.raises(ValueError, match="no eta"):
        model.drift(fields.OfGamma())(jnp.ones((1, 2)), 0.5)


def test_plans_check_what_they_are_given():
    process = INTERPOLANTS["linear_bridge"]()
    model, x = EXACT.fields(process), jnp.zeros((2, 2))
    plan = samplers.plan("interpolant_em", process, 5)
    with pytest.raises(ValueError, match="returns a velocity"):
        samplers.run(plan, model, x, key=jax.random.key(0))
    with pytest.raises(ValueError, match="returns a velocity, but Drift returns"):
        samplers.run(samplers.plan("flow_heun", process, 4), model.drift(fields.OfGamma()), x)
    with pytest.raises(ValueError, match="forward drift with OfGamma"):
        samplers.run(plan, model.drift(fields.OfGamma(), "backward"), x, key=jax.random.key(0))
