"""PFGM++: its law of noise, its two limits, the electric field it came from, and float32 up to D = 1e6."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad, solve_ivp

from gendyn import samplers
from gendyn.oracles import GaussianMixture, PointMasses
from gendyn.oracles.scale_mixture import scales
from gendyn.processes import EDM, PFGMPP
from gendyn.processes.noise import StudentT

DEGREES = [1, 64, 128, 2048, 1e6]
N = 3072
MIXTURE = GaussianMixture([0.4, 0.6], [[-1.0, 0.3], [0.8, -0.2]], [[0.15, 0.05], [0.4, 0.3]])


def f_law(x, sigma, D):
    """Kolmogorov-Smirnov p-value of |x|^2/(N sigma^2) against the exact F law."""
    radii = np.sum((np.asarray(x, np.float64) / sigma) ** 2, axis=-1)
    return stats.kstest(radii / x.shape[-1], stats.f(x.shape[-1], D).cdf).pvalue


@pytest.mark.parametrize("D", DEGREES)
def test_float32_noise_prior_and_samples_have_the_exact_radii(D):
    """Three tests at each of five D, fixed keys; a correct law fails one of them with probability 15 x 1e-4.

    The sampler runs EDM's grid on the exact model of one point: the flow maps radius quantiles onto each other, from
    the prior at 80 to the kernel at the last node.
    """
    process = PFGMPP(D=D)
    x, _ = process.perturb(jax.random.key(0), jnp.zeros((2000, N)), 0.7)
    assert x.dtype == jnp.float32
    assert f_law(x, 0.7, D) > 1e-4
    prior = process.sample_prior(jax.random.key(1), (2000, N))
    assert f_law(prior, process.sigma_max, D) > 1e-4
    plan = samplers.plan("heun", process, nfe=18, grid_options={"final_zero": False})
    ends = samplers.run(plan, PointMasses(np.zeros((1, N), np.float32)).denoiser(process), prior)
    assert f_law(ends, process.sigma_min, D) > 1e-4


def test_the_radius_test_can_fail():
    noise = EDM().sample_prior(jax.random.key(1), (2000, N))
    assert f_law(noise, 80.0, 64) < 1e-10


@pytest.mark.parametrize("D", [0.5, 3.0, 1e7])
def test_very_small_and_very_large_numbers_of_dimensions_are_finite(D):
    noise = np.asarray(PFGMPP(D=D).draw_noise(jax.random.key(0), (64, 200_000)))
    assert np.isfinite(noise).all()
    assert noise.std(axis=1).min() > 0


def test_one_precision_for_each_example():
    """Within an example the entries are Gaussian with one scale; across examples the scales differ."""
    spread = np.asarray(PFGMPP(D=3).draw_noise(jax.random.key(0), (50, 40, 50))).std(axis=(1, 2))
    assert spread.max() > 1.5 * spread.min()


def test_density_is_that_of_the_multivariate_t():
    x = np.random.default_rng(0).standard_normal((5, 4)) * 3
    for D in (0.7, 5.0, 300.0):
        ours = StudentT(D=D).log_density((x**2).sum(1), 4)
        np.testing.assert_allclose(ours, stats.multivariate_t(np.zeros(4), np.eye(4), df=D).logpdf(x), rtol=1e-12)


def test_infinitely_many_dimensions_are_edm_at_rate_one_over_D():
    x = np.array([[0.3, -0.4], [1.0, 2.0], [-3.0, 0.1]])
    gaussian = MIXTURE.denoiser(EDM())(x, 1.0)
    gaps = [np.abs(MIXTURE.denoiser(PFGMPP(D=D))(x, 1.0) - gaussian).max() for D in (1e3, 1e4, 1e5)]
    np.testing.assert_allclose(np.array(gaps[:-1]) / gaps[1:], 10, rtol=0.05)


def test_one_dimension_is_the_poisson_field():
    """D = 1: dx/dr = E_x/E_r of charges in N + 1 dimensions, E the sum of (x - y, r)/distance^{N + 1}."""
    rng = np.random.default_rng(0)
    charges, x, sigma = rng.standard_normal((7, 3)), rng.standard_normal((5, 3)), 0.8
    process = PFGMPP(D=1)
    r = process.radius(sigma)
    offset = x[:, None] - charges
    strength = ((offset**2).sum(-1) + r**2) ** (-(3 + 1) / 2)
    field_x, field_r = np.einsum("bn,bnd->bd", strength, offset), r * strength.sum(1)
    velocity = PointMasses(charges).velocity(process)(x, sigma)
    np.testing.assert_allclose(velocity, field_x / field_r[:, None] * (r / sigma), rtol=1e-12)


@pytest.mark.parametrize("D", [0.5, 1.0, 5.0, 128.0, 1e6])
def test_quadrature_over_the_scale_agrees_with_adaptive_integration(D):
    """Density of one Gaussian component under Student-t noise, near and far out, by scipy's adaptive rule."""
    process, mixture = PFGMPP(D=D), GaussianMixture([1.0], [[0.2, -0.5]], [[0.3, 0.01]])
    for x in ([0.0, 0.0], [3.0, -2.0], [40.0, 10.0]):
        ours = mixture.log_prob(process, np.array([x]), 0.6)[0]
        law = stats.gamma(D / 2, scale=2 / D)

        def integrand(u, x=x, law=law, ours=ours):
            variance = np.array([0.3, 0.01]) + 0.36 / np.exp(u)
            gaussian = stats.norm(mixture.means[0], np.sqrt(variance)).logpdf(x).sum()
            return np.exp(gaussian + law.logpdf(np.exp(u)) + u - ours)

        low, high = (float(end) for end in StudentT(D=D).bracket(np.float64(np.sum(np.square(x)) / 0.36), 2))
        peak = np.linspace(low, high, 20_001)
        peak = peak[np.argmax([integrand(u) for u in peak[::40]]) * 40]
        total = quad(integrand, low, peak, limit=500, epsabs=0)[0] + quad(integrand, peak, high, limit=500, epsabs=0)[0]
        assert abs(np.log(total)) < 1e-9


def test_gaussian_noise_has_one_node():
    delta = np.ones((2, 3, 4))
    scale, log_weight = scales(EDM().noise, delta, delta, np.ones((2, 1, 1)))
    assert scale.shape == (2, 3, 1)
    assert (scale == 1).all()
    assert (log_weight == 0).all()


@pytest.mark.parametrize("D", [3.0, 128.0])
def test_the_likelihood_budget_closes(D):
    """log p along the exact flow, from sigma = 20 to 0.1: both ends exact, the divergence between them; 1e-8."""
    process = PFGMPP(D=D)
    x = np.random.default_rng(0).standard_normal((3, 2)) * 20
    velocity, divergence = MIXTURE.velocity(process), MIXTURE.divergence(process)

    def field(s, state):  # in s = log sigma
        sigma = np.exp(s)
        at = state[:6].reshape(3, 2)
        return sigma * np.concatenate([velocity(at, sigma).ravel(), divergence(at, sigma)])

    start = np.concatenate([x.ravel(), np.zeros(3)])
    end = solve_ivp(field, np.log([20.0, 0.1]), start, method="DOP853", rtol=1e-11, atol=1e-11).y[:, -1]
    ends = [MIXTURE.log_prob(process, at, sigma) for at, sigma in ((x, 20.0), (end[:6].reshape(3, 2), 0.1))]
    np.testing.assert_allclose(ends[1], ends[0] - end[6:], atol=1e-8)


def test_likelihood_takes_the_heavy_tailed_prior(x64):
    """One point at zero: the state at any level has the kernel's own density, and `log_likelihood` finds it."""
    process = PFGMPP(D=5, sigma_min=0.5)
    D = PointMasses(np.zeros((1, 2))).denoiser(process)
    x = jnp.asarray([[0.3, -0.2], [4.0, 1.0]])
    ours = samplers.log_likelihood(process, D, x, rtol=1e-10, atol=1e-10).log_prob
    exact = stats.multivariate_t(np.zeros(2), 0.25 * np.eye(2), df=5).logpdf(x)
    np.testing.assert_allclose(ours, exact, atol=1e-7)


@pytest.mark.parametrize("D", [0, -1.0, float("nan"), float("inf")])
def test_dimensions_must_be_positive_and_finite(D):
    with pytest.raises(ValueError, match="D must be a positive number"):
        PFGMPP(D=D)


def test_what_needs_a_gaussian_score_refuses_by_name():
    process = PFGMPP(D=64)
    D = MIXTURE.denoiser(process)
    grid = samplers.grids.karras(process, 6)
    with pytest.raises(ValueError, match=r"PFGMPP.*not Gaussian.*deterministic"):
        samplers.heun(process, grid, churn=10.0)
    with pytest.raises(ValueError, match=r"PFGMPP.*use odeint"):
        samplers.sdeint(process, D, jnp.zeros((2, 2)), 80.0, 0.002, jax.random.key(0))
    with pytest.raises(ValueError, match=r"PFGMPP.*not Gaussian"):
        samplers.run_with_langevin(samplers.ddim(process, grid), D, jnp.zeros((2, 2)), jax.random.key(0))
