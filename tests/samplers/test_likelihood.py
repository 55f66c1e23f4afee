"""Likelihood: the budget closes on exact models, probes are unbiased with the stated error, bits per dimension."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn.oracles import GaussianMixture, TwoSided
from gendyn.processes import EDM, INTERPOLANTS, PROCESSES
from gendyn.samplers import Hutchinson, bits_per_dim, decode, dequantize, flow_log_likelihood, log_likelihood
from gendyn.samplers.adaptive import default_ends

MIXTURE = GaussianMixture([0.4, 0.6], [[-1.0, 0.3], [0.8, -0.2]], [[0.15, 0.05], [0.4, 0.3]])
TIGHT = {"rtol": 1e-10, "atol": 1e-10, "solver": diffrax.Dopri8()}


@pytest.mark.parametrize(
    "name", ["edm", "rectified_flow", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vp_linear", "subvp"))]
)
def test_the_budget_closes(name, x64):
    """log p at the data = log p at the noise + divergence, both exact; and the latent decodes to the data."""
    process = PROCESSES[name]()
    data, D = MIXTURE.sample(jax.random.key(0), 6), MIXTURE.denoiser(process)
    exact = MIXTURE.log_prob(process, data, default_ends(process)[1])
    prior = lambda x, t: MIXTURE.log_prob(process, x, t)
    result = log_likelihood(process, D, data, prior=prior, **TIGHT)
    np.testing.assert_allclose(result.log_prob, exact, atol=1e-8)
    assert not result.standard_error.any()
    if name == "edm":
        np.testing.assert_allclose(decode(process, D, result.latent, **TIGHT).x, data, atol=1e-8)


def test_the_gaussian_prior_is_exact_from_pure_noise_and_slightly_off_elsewhere(x64):
    data = MIXTURE.sample(jax.random.key(0), 6)
    bias = {}
    for name in ("rectified_flow", "edm"):
        process = PROCESSES[name]()
        exact = MIXTURE.log_prob(process, data, default_ends(process)[1])
        ours = log_likelihood(process, MIXTURE.denoiser(process), data, rtol=1e-8, atol=1e-8).log_prob
        bias[name] = np.abs(ours - exact).max()
    assert bias["rectified_flow"] < 1e-6
    assert 1e-6 < bias["edm"] < 0.02


def test_probes_are_unbiased_within_the_stated_error(x64):
    """Sixteen z-scores of 200 probes each: the largest exceeds 4 for one key in a thousand."""
    data, D = MIXTURE.sample(jax.random.key(0), 16), MIXTURE.denoiser(EDM())
    exact = log_likelihood(EDM(), D, data, rtol=1e-6, atol=1e-6)
    probed = log_likelihood(EDM(), D, data, jax.random.key(1), divergence=Hutchinson(num=200), rtol=1e-6, atol=1e-6)
    z = (probed.log_prob - exact.log_prob) / probed.standard_error
    assert np.abs(z).max() < 4
    assert 0.4 < np.sqrt(np.mean(z**2)) < 1.8
    np.testing.assert_allclose(probed.latent, exact.latent, rtol=1e-4, atol=1e-4)


def test_one_probe_is_exact_for_a_diagonal_jacobian_and_states_no_error():
    diagonal = GaussianMixture([1.0], [[0.5, -0.5]], [[0.3, 0.02]])
    data, D = diagonal.sample(jax.random.key(0), 4), diagonal.denoiser(EDM())
    exact = log_likelihood(EDM(), D, data)
    probed = log_likelihood(EDM(), D, data, jax.random.key(1), divergence=Hutchinson(num=1))
    np.testing.assert_allclose(probed.log_prob, exact.log_prob, atol=2e-3)
    assert np.isnan(probed.standard_error).all()


def test_any_number_of_data_axes():
    """An image is its pixels in a row."""
    gaussian = GaussianMixture([1.0], np.zeros((1, 6)), np.full((1, 6), 0.25))
    flat = gaussian.denoiser(EDM())
    image = lambda x, t, cond=None: flat(x.reshape(x.shape[0], -1), t).reshape(x.shape)
    data = gaussian.sample(jax.random.key(0), 3)
    ours = log_likelihood(EDM(), image, data.reshape(3, 2, 3, 1)).log_prob
    np.testing.assert_allclose(ours, log_likelihood(EDM(), flat, data).log_prob, rtol=1e-4)


def test_probes_need_a_key():
    with pytest.raises(ValueError, match=r"pass key=jax\.random\.key"):
        log_likelihood(EDM(), MIXTURE.denoiser(EDM()), jnp.ones((2, 2)), divergence=Hutchinson())


def test_bits_per_dim_of_uniform_bytes_are_eight():
    """Uniform over 256 levels: dequantised, a density of 1/2 on [-1, 1] or of 1 on [0, 1]."""
    assert float(bits_per_dim(5 * np.log(0.5), dim=5, bin_width=2 / 256)) == pytest.approx(8.0)
    assert float(bits_per_dim(0.0, dim=3, bin_width=1 / 256)) == pytest.approx(8.0)


def test_dequantised_data_fill_their_bins():
    levels = jnp.repeat(jnp.arange(4.0)[:, None], 1000, 1) * 0.25 - 0.375
    spread = dequantize(jax.random.key(0), levels, 0.25)
    assert float(jnp.abs(spread - levels).max()) <= 0.125
    # Uniform on [-1/2, 1/2] altogether; 4000 draws, Kolmogorov distance 0.031 at a false-alarm rate of 1e-3.
    ranks = np.sort(np.ravel(spread)) + 0.5
    assert np.abs(ranks - (np.arange(4000) + 0.5) / 4000).max() < 0.031


BASE = GaussianMixture([0.7, 0.3], [[0.5, 0.5], [-0.5, 1.0]], [[0.2, 0.1], [0.1, 0.3]])


@pytest.mark.parametrize(
    ("name", "ends"), [("linear", (0.0, 1.0)), pytest.param("linear_bridge", (0.02, 0.98), marks=pytest.mark.slow)]
)
def test_the_budget_of_a_two_sided_flow_closes(name, ends, x64):
    """Between two mixtures: from the base's density to the data's, and the marginals inside the clock of a bridge."""
    process, exact = INTERPOLANTS[name](), TwoSided(base=BASE, data=MIXTURE)
    x = jnp.asarray(MIXTURE.sample(jax.random.key(0), 6), jnp.float64)
    options = {"t_start": ends[0], "t_end": ends[1], **TIGHT}
    prior = lambda x, t: exact.log_prob(process, x, t)
    result = flow_log_likelihood(process, exact.fields(process), x, prior=prior, **options)
    np.testing.assert_allclose(result.log_prob, exact.log_prob(process, x, ends[1]), atol=1e-8)
    if name == "linear":
        by_probes = {"divergence": Hutchinson(num=100), "prior": prior, "rtol": 1e-6, "atol": 1e-6}
        probed = flow_log_likelihood(process, exact.fields(process), x, jax.random.key(1), **by_probes)
        assert (np.abs(probed.log_prob - result.log_prob) < 5 * probed.standard_error).all()
