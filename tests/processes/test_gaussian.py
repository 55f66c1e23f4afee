"""Every process in the list: derivatives, the inverse of lam, the ends of the clock, moments of the kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn.processes import PROCESSES

ALL_PROCESSES = sorted(PROCESSES)


def interior(process, n=41):
    """Times strictly inside the sampling interval (off the nodes of discrete tables)."""
    start, end = process.interval
    return start + (end - start) * (np.arange(n) + 0.4567) / n


@pytest.fixture(params=ALL_PROCESSES)
def process(request):
    return PROCESSES[request.param]()


def test_closed_form_derivatives_are_those_of_alpha_and_sigma(process, x64):
    t = jnp.asarray(interior(process))
    for name in ("alpha", "sigma"):
        automatic = jax.vmap(jax.grad(getattr(process, name)))(t)
        np.testing.assert_allclose(getattr(process, "d" + name)(t), automatic, rtol=1e-9, atol=1e-12)


def test_t_of_lam_inverts_lam_to_machine_precision(process):
    t = interior(process)
    lam = process.lam(t)
    np.testing.assert_allclose(process.lam(process.t_of_lam(lam)), lam, rtol=0, atol=2e-12)
    np.testing.assert_allclose(process.t_of_lam(lam), t, rtol=1e-11)


def test_lam_rises_from_noise_to_data_and_is_log_alpha_over_sigma(process):
    t = interior(process)
    lam = process.lam(t)
    assert np.all(np.diff(lam) > 0)
    np.testing.assert_allclose(np.exp(lam), process.alpha(t) / process.sigma(t), rtol=1e-10)


def test_array_module_and_precision_follow_the_input(process):
    t = interior(process, 3)
    for method in ("alpha", "sigma", "dalpha", "dsigma", "lam"):
        host, device = getattr(process, method)(t), getattr(process, method)(jnp.asarray(t, jnp.float32))
        assert isinstance(host, np.ndarray)
        assert host.dtype == np.float64
        assert isinstance(device, jax.Array)
        assert device.dtype == jnp.float32
        np.testing.assert_allclose(device, host, rtol=3e-4, atol=1e-5)


def test_noise_end_is_noisier_than_data_end(process):
    ratio = [process.sigma(t) / np.maximum(process.alpha(t), 1e-300) for t in (process.t_noise, process.t_data)]
    assert ratio[0] > 50 * max(ratio[1], 1e-3)


def test_moments_of_perturb_and_prior(process):
    """Means and variances over 20,000 draws; 6 standard errors: false alarm below 1e-7 per run (fixed key)."""
    n, mean, scale = 20_000, 1.5, 0.7
    key = jax.random.key(0)
    data = mean + scale * jax.random.normal(jax.random.key(1), (n, 1))
    for t in interior(process, 3):
        x, noise = process.perturb(key, data, jnp.full((n,), t))
        np.testing.assert_allclose(x, process.alpha(t) * data + process.sigma(t) * noise, rtol=2e-3, atol=2e-4)
        variance = (process.alpha(t) * scale) ** 2 + process.sigma(t) ** 2
        assert abs(x.mean() - process.alpha(t) * mean) < 6 * np.sqrt(variance / n)
        assert abs(x.var() / variance - 1) < 6 * np.sqrt(2 / n)
    prior = process.sample_prior(key, (n, 1))
    assert abs(prior.std() / process.sigma(process.t_noise) - 1) < 6 * np.sqrt(0.5 / n)


def test_prior_is_the_noise_end_of_the_path_up_to_the_data_share(process):
    """alpha/sigma at t_noise is at most 0.021, except the scaled-linear table, known for its 0.068."""
    t = process.t_noise
    assert process.alpha(t) / process.sigma(t) < 0.07
    x, noise = process.perturb(jax.random.key(2), jnp.ones((4, 3)), t)
    np.testing.assert_allclose(x - process.alpha(t), process.sigma(t) * noise, rtol=1e-4, atol=1e-4)


def test_processes_are_hashable_values_without_leaves(process):
    assert jax.tree.leaves(process) == []
    assert hash(process) == hash(type(process)(**process.__dict__))


def test_discrete_tables_agree_with_their_continuous_limit():
    """DDPM's linear table with N = 1000 samples beta(t)/N of VP-linear (0.1, 20); the difference is O(1/N)."""
    discrete, continuous = PROCESSES["vp_discrete"](), PROCESSES["vp_linear"]()
    t = np.linspace(0.05, 1, 20)
    np.testing.assert_allclose(discrete.lam(t), continuous.lam(t), atol=0.04)


def test_discrete_refuses_impossible_betas():
    from gendyn.processes import VPDiscrete

    with pytest.raises(ValueError, match=r"inside \(0, 1\)"):
        VPDiscrete(betas=(0.1, 1.0))
