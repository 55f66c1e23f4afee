"""The exact models against automatic differentiation, limits, and each other, under every process."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn.oracles import GaussianMixture, PointMasses
from gendyn.processes import EDM, PROCESSES

X = np.array([[0.3, -0.4], [1.0, 2.0], [-3.0, 0.1], [0.0, 0.0]])


@pytest.fixture(params=sorted(PROCESSES))
def process(request):
    return PROCESSES[request.param]()


GAUSSIAN = [name for name in sorted(PROCESSES) if PROCESSES[name]().gaussian_noise]
"""Processes whose score and posterior covariance follow from the denoiser."""


@pytest.fixture(params=GAUSSIAN)
def gaussian(request):
    return PROCESSES[request.param]()


COVARIANCES = {
    "diagonal": [[0.1, 0.2], [0.3, 0.05]],
    "full": [[[0.5, 0.2], [0.2, 0.3]], [[0.1, -0.05], [-0.05, 0.4]]],
    "point masses": np.zeros((2, 2)),
}


def make(kind):
    return GaussianMixture([0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]], COVARIANCES[kind])


@pytest.fixture(params=COVARIANCES)
def mixture(request):
    return make(request.param)


@pytest.fixture(params=list(zip(sorted(PROCESSES), itertools.cycle(COVARIANCES))), ids="-".join)
def covering(request):
    """(mixture, process): each process and each kind of covariance once or more, for the dearer tests."""
    name, kind = request.param
    return make(kind), PROCESSES[name]()


def times_of(process):
    return process.t_of_lam(np.array([-2.0, -0.3, 1.2]))


def points(process):
    """Every point of X at every time: x [12, 2], t [12]."""
    t = times_of(process)
    return jnp.asarray(np.tile(X, (len(t), 1))), jnp.asarray(np.repeat(t, len(X)))


def test_score_is_the_gradient_of_the_log_density(covering, x64):
    mixture, process = covering
    x, t = points(process)
    gradient = jax.jit(jax.grad(lambda x: mixture.log_prob(process, x, t).sum()))(x)
    np.testing.assert_allclose(jax.jit(mixture.score(process))(x, t), gradient, rtol=1e-10, atol=1e-12)


def test_tweedie_relates_denoised_and_score(mixture, process):
    for t in times_of(process):
        alpha, sigma = process.alpha(t), process.sigma(t)
        denoised, score = mixture.denoiser(process)(X, t), mixture.score(process)(X, t)
        if process.gaussian_noise:
            np.testing.assert_allclose(alpha * denoised, X + sigma**2 * score, rtol=1e-11, atol=1e-12)
        else:  # heavy tails: the relation fails, most where x is far out
            assert np.abs(alpha * denoised - (X + sigma**2 * score)).max() > 1e-3 * sigma


def jacobian(field, x, t):
    """[batch, d, d] of a field (x, t) -> [batch, d]."""
    return jax.jit(jax.vmap(jax.jacfwd(lambda x, t: field(x[None], t)[0])))(x, t)


def test_divergence_is_the_trace_of_the_velocity_jacobian(covering, x64):
    mixture, process = covering
    x, t = points(process)
    trace = jnp.trace(jacobian(mixture.velocity(process), x, t), axis1=1, axis2=2)
    np.testing.assert_allclose(jax.jit(mixture.divergence(process))(x, t), trace, rtol=1e-9, atol=1e-11)


def test_jacobian_of_the_denoised_is_a_covariance(gaussian, x64):
    """d denoised/dx = (alpha/sigma^2) Cov[data | x]: symmetric and positive semi-definite."""
    mixture, process = make("full"), gaussian
    matrix = jacobian(mixture.denoiser(process), *points(process))
    np.testing.assert_allclose(matrix, matrix.swapaxes(1, 2), atol=1e-12)
    assert np.linalg.eigvalsh(matrix).min() > -1e-12


def test_continuity_equation(covering, x64):
    """d log p/dt + velocity . score + divergence = 0: density, velocity and divergence belong to one flow."""
    mixture, process = covering
    x, t = points(process)

    @jax.jit
    def terms_at(x, t):
        rate = jax.grad(lambda t: mixture.log_prob(process, x, t).sum())(t)
        transport = (mixture.velocity(process)(x, t) * mixture.score(process)(x, t)).sum(-1)
        return jnp.stack([rate, transport, mixture.divergence(process)(x, t)])

    terms = np.asarray(terms_at(x, t))
    assert (np.abs(terms.sum(0)) < 1e-9 * np.abs(terms).max(0)).all()


def test_velocity_is_dx_dt_along_the_path_of_a_point_mass(process):
    """One point mass mu: x = alpha mu + sigma noise is itself the trajectory of the probability flow."""
    mixture = GaussianMixture([1.0], [[0.7]], [[0.0]])
    noise, dt = 1.3, 1e-6
    for t in times_of(process):

        def path(t):
            return process.alpha(t) * 0.7 + process.sigma(t) * noise

        difference = (path(t + dt) - path(t - dt)) / (2 * dt)
        velocity = mixture.velocity(process)(np.array([[path(t)]]), t)[0, 0]
        np.testing.assert_allclose(velocity, difference, rtol=1e-7)


def test_diagonal_and_full_covariances_agree(process):
    variances = np.array([[0.1, 0.2], [0.3, 0.05]])
    both = [
        GaussianMixture([1, 2], [[-1.0, 0.5], [1.0, 0.0]], covariances)
        for covariances in (variances, np.stack([np.diag(v) for v in variances]))
    ]
    for t in times_of(process):
        for method in ("denoiser", "score", "velocity", "divergence"):
            diagonal, full = (getattr(m, method)(process)(X, t) for m in both)
            np.testing.assert_allclose(diagonal, full, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(*(m.log_prob(process, X, t) for m in both), rtol=1e-12)


def test_every_path_is_the_exploding_path_of_x_over_alpha(mixture, gaussian):
    """D(x; alpha, sigma) = D_EDM(x/alpha; sigma/alpha), the identity that lets one solver serve all processes."""
    process = gaussian
    for t in times_of(process):
        alpha, sigma = process.alpha(t), process.sigma(t)
        exploding = mixture.denoiser(EDM())(X / alpha, sigma / alpha)
        np.testing.assert_allclose(mixture.denoiser(process)(X, t), exploding, rtol=1e-11, atol=1e-13)


def test_limits_of_the_denoiser(mixture, process):
    """Pure noise gives the mean of the data; nearly clean states come back unchanged (the nearest of point masses)."""
    pure = mixture.denoiser(PROCESSES["rectified_flow"]())(X, 0.0)
    np.testing.assert_allclose(pure, np.broadcast_to(mixture.weights @ mixture.means, X.shape), rtol=1e-14)
    near = mixture.denoiser(EDM())(X, 1e-6)
    distance = np.abs(X[:, None] - mixture.means).sum(-1)
    expected = X if mixture.eigenvalues.any() else mixture.means[distance.argmin(1)]
    np.testing.assert_allclose(near, expected, atol=1e-9)


def test_a_single_point_mass_is_its_own_denoised(process):
    mixture = GaussianMixture([1.0], [[0.7, -2.0]], [[0.0, 0.0]])
    for t in times_of(process):
        np.testing.assert_allclose(mixture.denoiser(process)(X, t), np.broadcast_to([[0.7, -2.0]], X.shape), rtol=1e-14)


def test_numpy_and_jax_agree_and_times_may_differ_per_example(covering, x64):
    mixture, process = covering
    t = np.resize(times_of(process), len(X))
    fields = [getattr(mixture, method)(process) for method in ("denoiser", "score", "velocity", "divergence")]
    compiled = jax.jit(lambda x, t: [field(x, t) for field in fields])(jnp.asarray(X), jnp.asarray(t))
    for field, ours in zip(fields, compiled):
        together = field(X, t)
        assert isinstance(together, np.ndarray)
        np.testing.assert_allclose(ours, together, rtol=1e-10, atol=1e-13)
        alone = np.concatenate([field(X[i : i + 1], t[i]) for i in range(len(X))])
        np.testing.assert_allclose(alone, together, rtol=1e-13)


def test_precision_follows_x(mixture):
    x = jnp.asarray(X, jnp.float32)
    assert mixture.denoiser(EDM())(x, 0.5).dtype == jnp.float32
    np.testing.assert_allclose(mixture.denoiser(EDM())(x, 0.5), mixture.denoiser(EDM())(X, 0.5), rtol=1e-4, atol=1e-6)


def test_moments_of_samples(mixture):
    """Mean and covariance of 40,000 draws within 6 standard errors: false alarm below 1e-7 (fixed key)."""
    n = 40_000
    draws = np.asarray(mixture.sample(jax.random.key(0), n), np.float64)
    mean = mixture.weights @ mixture.means
    basis = np.stack([np.eye(2)] * 2) if mixture.eigenvectors is None else mixture.eigenvectors
    within = np.einsum("kij,kj,klj->kil", basis, mixture.eigenvalues, basis)
    centred = mixture.means - mean
    covariance = np.einsum("k,kij->ij", mixture.weights, within + centred[:, :, None] * centred[:, None])
    assert np.all(np.abs(draws.mean(0) - mean) < 6 * np.sqrt(np.diag(covariance) / n))
    products = (draws - mean)[:, :, None] * (draws - mean)[:, None]
    error = 6 * products.std(0) / np.sqrt(n)
    assert np.all(np.abs(products.mean(0) - covariance) < error + 1e-12)


def test_log_density_integrates_to_one(process):
    mixture = GaussianMixture([0.4, 0.6], [[-1.0], [0.5]], [[0.1], [0.02]])
    for t in times_of(process):
        half = 10 * (process.sigma(t) + process.alpha(t))
        x = np.linspace(-half, half, 20_001)
        mass = np.exp(mixture.log_prob(process, x[:, None], t)).sum() * (x[1] - x[0])
        np.testing.assert_allclose(mass, 1.0, rtol=1e-10)


def test_impossible_mixtures_are_refused():
    with pytest.raises(ValueError, match=r"got \(2,\), \(1, 1\), \(1, 1\)"):
        GaussianMixture([0.5, 0.5], [[0.0]], [[1.0]])
    with pytest.raises(ValueError, match="positive weights"):
        GaussianMixture([1.0, -1.0], [[0.0], [1.0]], [[1.0], [1.0]])
    with pytest.raises(ValueError, match="positive semi-definite"):
        GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]])


# --- Point masses and data sets ---------------------------------------------------------------------------------


def test_point_masses_agree_with_a_mixture_without_covariance(process, x64):
    """Two implementations of one model; under PFGM++ a closed form against a quadrature."""
    weights, points = [0.3, 0.7], [[-1.0, 0.5], [1.0, 0.0]]
    both = PointMasses(points, weights), make("point masses")

    def everything(x, t):
        fields = [[getattr(m, f)(process)(x, t) for m in both] for f in ("denoiser", "score", "velocity", "divergence")]
        return [*fields, [m.log_prob(process, x, t) for m in both]]

    for function in (everything, jax.jit(everything)):
        for ours, theirs in function(*points_and_times(process)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)


def points_and_times(process):
    """X away from the points themselves, at three noise levels."""
    t = times_of(process)
    return np.tile(X, (len(t), 1)), np.repeat(t, len(X))


def test_a_data_set_larger_than_a_chunk_is_the_sum_over_its_points(rng):
    data, x = rng.standard_normal((2500, 2, 3)), rng.standard_normal((4, 2, 3))
    process = EDM()
    distance = ((x[:, None] - data) ** 2).sum((2, 3))
    g = np.exp(-0.5 * distance / 0.4**2)
    expected = np.einsum("bn,nij->bij", g / g.sum(1, keepdims=True), data)
    D = PointMasses(data).denoiser(process)
    np.testing.assert_allclose(D(x, 0.4), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(jax.jit(D)(jnp.asarray(x, jnp.float32), 0.4), expected, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("points", "weights", "message"),
    [
        ([1.0, 2.0], None, "points \\[n"),
        ([[1.0], [2.0]], [1.0], "weights"),
        ([[1.0], [2.0]], [1.0, -1.0], "positive"),
        ([[np.nan], [2.0]], None, "finite"),
    ],
)
def test_point_masses_say_what_they_need(points, weights, message):
    with pytest.raises(ValueError, match=message):
        PointMasses(points, weights)
