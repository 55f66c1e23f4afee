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


class UShape(stats.rv_continuous):
    """Density proportional to e^{3 s} + e^{3 (1 - s)} on [0, 1], integrated numerically by scipy."""

    def _pdf(self, s):
        return (np.exp(3 * s) + np.exp(3 * (1 - s))) / (2 * (np.exp(3.0) - 1) / 3)


LAWS = {
    "lognormal": (noise_levels.LogNormal(), lambda p, t: -p.lam(t), stats.norm(-1.2, 1.2)),
    "logit_normal": (noise_levels.LogitNormal(mean=0.3), lambda p, t: logit(fraction(p, t)), stats.norm(0.3, 1)),
    "uniform_t": (noise_levels.UniformT(), fraction, stats.uniform(1e-5, 1 - 1e-5)),
    "uniform_lam": (noise_levels.UniformLam(low=-2, high=3), lambda p, t: p.lam(t), stats.uniform(-2, 5)),
    "cosine": (noise_levels.Cosine(), lambda p, t: p.lam(t), stats.hypsecant()),
    "u_shaped": (noise_levels.UShaped(a=3.0), fraction, UShape(a=0.0, b=1.0)),
    "shifted": (
        noise_levels.Shifted(levels=noise_levels.LogNormal(), shift=3.0),
        lambda p, t: -p.lam(t),
        stats.norm(-1.2 + np.log(3), 1.2),
    ),
    "nodes": (noise_levels.Nodes(k=4), lambda p, t: np.round(4 * fraction(p, t), 6), stats.randint(1, 5)),
}
"""Density -> (value, statistic of (process, t), its law); sech(lam)/pi for the cosine density."""
SMOOTH = [name for name in LAWS if name != "nodes"]
RISING_IN_T = {"lognormal", "logit_normal", "uniform_t", "u_shaped", "shifted"}


def test_every_density_in_the_list_has_its_law_tested():
    assert LAWS.keys() == NOISE_LEVELS.keys()
    for name, (levels, *_) in LAWS.items():
        assert type(levels) is NOISE_LEVELS[name]


@pytest.mark.parametrize("path", ["edm", "rectified_flow", "vp_discrete"])
@pytest.mark.parametrize("name", SMOOTH)
def test_samples_follow_the_stated_law(name, path, x64):
    """Kolmogorov-Smirnov on 4000 draws at p = 1e-6 per case: false alarm below 1e-4 over all cases (fixed keys)."""
    levels, statistic, law = LAWS[name]
    process = PROCESSES[path]()
    t = np.asarray(levels.sample(process, jax.random.key(0), N), np.float64)
    assert stats.kstest(statistic(process, t), law.cdf).pvalue > 1e-6


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", SMOOTH)
def test_quantiles_are_exact_and_rise_from_data_to_noise(name, path, x64):
    levels, statistic, law = LAWS[name]
    process = PROCESSES[path]()
    u = np.linspace(0.02, 0.98, 25)
    t = np.asarray(levels.quantile(process, jnp.asarray(u)))
    assert (np.diff(process.lam(t)) < 0).all()
    level = law.cdf(statistic(process, t))
    expected = u if name in RISING_IN_T else 1 - u
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
            if name in {"logit_normal", "uniform_t", "u_shaped", "nodes"}:
                assert ((t >= low) & (t <= high)).all()


@pytest.mark.parametrize("path", ["edm", "rectified_flow", "vp_discrete"])
def test_nodes_are_the_calls_of_an_euler_sampler_and_equally_likely(path):
    """Chi-square on 4000 draws at p = 1e-6; the noise end is hit exactly, which one-step distillation relies on."""
    process, levels = PROCESSES[path](), noise_levels.Nodes(k=4)
    t = np.asarray(levels.sample(process, jax.random.key(0), N))
    found, counts = np.unique(t, return_counts=True)
    ends = np.linspace(process.t_noise, process.t_data, 5)[:-1]
    np.testing.assert_allclose(np.sort(found), np.sort(ends), rtol=1e-5)
    assert stats.chisquare(counts).pvalue > 1e-6
    once = noise_levels.Nodes(k=1).sample(process, jax.random.key(0), 64)
    assert np.array_equal(once, np.full(64, process.t_noise, np.float32))


def test_the_shift_is_the_published_map_on_rectified_flow(x64):
    """s -> c s/(1 + (c - 1) s) from the data end (Esser et al. 2024), and c = 1 is none."""
    process, u = PROCESSES["rectified_flow"](), jnp.linspace(0.01, 0.99, 9)
    plain = noise_levels.UniformT(margin=0.0)
    shifted = noise_levels.Shifted(levels=plain, shift=3.0)
    s = fraction(process, plain.quantile(process, u))
    np.testing.assert_allclose(fraction(process, shifted.quantile(process, u)), 3 * s / (1 + 2 * s), rtol=1e-12)
    same = noise_levels.Shifted(levels=plain, shift=1.0)
    np.testing.assert_allclose(same.quantile(process, u), plain.quantile(process, u), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [(lambda: noise_levels.Nodes(k=0), "at least one"), (lambda: noise_levels.Shifted(shift=0.0), "positive")],
)
def test_impossible_values_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
