"""Densities over noise levels: the stated law under every process, and stratification."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gendyn.objectives import NOISE_LEVELS, noise_levels
from gendyn.processes import PROCESSES

N = 4000
PATHS = ["vp_linear", "vp_cosine", "subvp", "ve", "edm", "gvp", "rectified_flow", "vp_discrete"]


def fraction(process, t):
    """Position on the clock from the data end to the noise end."""
    return (np.asarray(t, float) - process.t_data) / (process.t_noise - process.t_data)


def logit(u):
    return np.log(u / (1 - u))


LAWS = {
    "lognormal": (noise_levels.LogNormal(), lambda p, t: -p.lam(t), stats.norm(-1.2, 1.2)),
    "logit_normal": (noise_levels.LogitNormal(mean=0.3), lambda p, t: logit(fraction(p, t)), stats.norm(0.3, 1)),
    "uniform_t": (noise_levels.UniformT(), fraction, stats.uniform(1e-5, 1 - 1e-5)),
    "uniform_lam": (noise_levels.UniformLam(low=-2, high=3), lambda p, t: p.lam(t), stats.uniform(-2, 5)),
    "cosine": (noise_levels.Cosine(), lambda p, t: p.lam(t), stats.hypsecant()),
}
"""Density -> (value, statistic of (process, t), its law); sech(lam)/pi for the cosine density."""


def test_every_density_in_the_list_has_its_law_tested():
    assert LAWS.keys() == NOISE_LEVELS.keys()
    for name, (levels, *_) in LAWS.items():
        assert type(levels) is NOISE_LEVELS[name]


@pytest.mark.parametrize("path", ["edm", "rectified_flow", "vp_discrete"])
@pytest.mark.parametrize("name", LAWS)
def test_samples_follow_the_stated_law(name, path, x64):
    """Kolmogorov-Smirnov on 4000 draws at p = 1e-6 per case: false alarm below 1e-4 over all cases (fixed keys)."""
    levels, statistic, law = LAWS[name]
    process = PROCESSES[path]()
    t = np.asarray(levels.sample(process, jax.random.key(0), N), np.float64)
    assert stats.kstest(statistic(process, t), law.cdf).pvalue > 1e-6


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", LAWS)
def test_quantiles_are_exact_and_rise_from_data_to_noise(name, path, x64):
    levels, statistic, law = LAWS[name]
    process = PROCESSES[path]()
    u = np.linspace(0.02, 0.98, 25)
    t = np.asarray(levels.quantile(process, jnp.asarray(u)))
    assert (np.diff(process.lam(t)) < 0).all()
    level = law.cdf(statistic(process, t))
    expected = u if name in {"lognormal", "logit_normal", "uniform_t"} else 1 - u
    np.testing.assert_allclose(level, expected, atol=2.1e-3 if name == "cosine" else 1e-9)  # the cosine's margin


@pytest.mark.parametrize("name", LAWS)
def test_stratified_covers_each_stratum_once_and_keeps_the_law(name):
    """Each batch has one draw in every 1/n of the law; each example alone still has the law (p > 1e-6)."""
    levels, process = LAWS[name][0], PROCESSES["rectified_flow"]()
    stratified = noise_levels.Stratified(levels=noise_levels.UniformT(margin=0.0))
    u = fraction(process, stratified.sample(process, jax.random.key(1), 64))
    assert np.array_equal(np.floor(64 * u), np.arange(64))
    batches = jax.vmap(lambda key: noise_levels.Stratified(levels=levels).sample(process, key, 8))(
        jax.random.split(jax.random.key(0), 500)
    )
    plain = levels.sample(process, jax.random.key(5), N)
    assert stats.ks_2samp(np.asarray(batches)[np.arange(500), np.arange(500) % 8], plain).pvalue > 1e-6


def test_stratified_batches_have_a_lower_variance():
    process, levels = PROCESSES["edm"](), noise_levels.LogNormal()
    keys = jax.random.split(jax.random.key(0), 200)

    def spread(levels):
        means = jax.vmap(lambda key: -process.lam(levels.sample(process, key, 32)).mean())(keys)
        return float(means.var())

    assert spread(noise_levels.Stratified(levels=levels)) < 0.2 * spread(levels)


def test_times_stay_inside_the_clock_at_the_ends_of_the_uniform():
    for path in PATHS:
        process = PROCESSES[path]()
        low, high = sorted((process.t_data, process.t_noise))
        for name, (levels, *_) in LAWS.items():
            t = levels.quantile(process, jnp.array([noise_levels.TINY, 0.5, 1 - noise_levels.TINY]))
            assert np.isfinite(t).all(), name
            if name in {"logit_normal", "uniform_t"}:
                assert ((t >= low) & (t <= high)).all()
