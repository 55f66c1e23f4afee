"""Rectification with the exact velocity of a mixture: costs never rise, and the books balance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gendyn as gd
from gendyn.samplers import straightness as st

PROCESS = gd.processes.RectifiedFlow()
MIXTURE = gd.oracles.GaussianMixture(
    [0.5, 0.3, 0.2], [[-2.0, 0.0], [1.5, 1.5], [1.0, -2.0]], [[0.05, 0.2], [0.3, 0.1], [0.1, 0.1]]
)
N = 4000


@pytest.fixture(scope="module")
def paths():
    with jax.enable_x64(True):
        x_T = jax.random.normal(jax.random.key(0), (N, 2), jnp.float64)
        return jax.tree.map(np.asarray, st.follow(PROCESS, MIXTURE.denoiser(PROCESS), x_T, steps=100))


@pytest.fixture(scope="module")
def independent():
    """Independent pairs of noise and data."""
    key_base, key_data = jax.random.split(jax.random.key(1))
    return jax.random.normal(key_base, (N, 2)), MIXTURE.sample(key_data, N)


def mean_and_error(values):
    return float(np.mean(values)), float(np.std(values) / np.sqrt(len(values)))


CONVEX = st.COSTS | {"user's": lambda z: jnp.cosh(z[:, 0]) + jnp.maximum(z[:, 1], 0.0)}


@pytest.mark.parametrize("name", CONVEX)
def test_no_convex_transport_cost_rises_under_rectification(name, paths, independent):
    """Liu et al. 2023, theorem 3.5. The drop exceeds five standard errors, so a false verdict has odds below 1e-6."""
    before, s = mean_and_error(CONVEX[name](independent[1] - independent[0]))
    after, e = mean_and_error(CONVEX[name](paths.end - paths.start))
    assert before - after > 5 * np.hypot(s, e)
    assert float(st.transport_cost(paths.start, paths.end, CONVEX[name])) == pytest.approx(after, rel=1e-6)


def test_the_squared_cost_falls_by_straightness_and_loss(paths, independent):
    """E|data - base|^2 - E|Z_1 - Z_0|^2 = S(Z) + int E|data - base - v(x_t)|^2 dt, both sides by Monte Carlo over
    other draws: equal within five standard errors (odds below 1e-6), and the sides are not small (tens of errors)."""
    base, data = independent
    t = (jnp.arange(N) + 0.5)[jax.random.permutation(jax.random.key(2), N)] / N
    v = MIXTURE.velocity(PROCESS)(PROCESS.state(data, base, t), t)
    right, e_right = mean_and_error(st.squared(data - base) - st.squared(data - base - v))
    left, e_left = mean_and_error(st.squared(paths.end - paths.start) + paths.bend)
    assert abs(left - right) < 5 * np.hypot(e_left, e_right)
    s, e = mean_and_error(paths.bend)
    assert s > 20 * e


def test_the_best_of_K_rectifications_is_straight_to_one_over_K(paths, independent):
    """min over k <= K of S(Z^k) <= E|data - base|^2/K; here K = 1, the only flow whose velocity is in closed form."""
    assert paths.bend.mean() <= st.squared(independent[1] - independent[0]).mean()


@pytest.mark.parametrize("covariance", [0.0, 1.0])
def test_straight_flows_have_none(covariance, x64):
    """A point mass is reached on rays, whose single Euler step is exact. N(m, I) is not: noise of equal width contracts
    and expands again, bending every path but the one from 0, by a closed form: Z_t = t m + z sqrt(t^2 + (1-t)^2)."""
    mixture = gd.oracles.GaussianMixture([1.0], [[1.0, -2.0]], [[covariance, covariance]])
    x_T = jax.random.normal(jax.random.key(0), (16, 2), jnp.float64)
    paths = st.follow(PROCESS, mixture.denoiser(PROCESS), x_T, steps=400)
    if covariance == 0.0:
        assert float(paths.bend.max()) < 1e-20
        assert float(paths.leap.max()) < 1e-20
    else:
        t = (np.arange(200_000) + 0.5) / 200_000
        speed = (2 * t - 1) / np.sqrt(t**2 + (1 - t) ** 2)  # d/dt of the factor of z, whose ends are equal
        np.testing.assert_allclose(paths.bend, np.mean(speed**2) * st.squared(x_T), rtol=1e-4)
        np.testing.assert_allclose(paths.end, x_T + jnp.array([1.0, -2.0]), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(paths.leap, st.squared(x_T), rtol=1e-3)


def test_the_measure_converges_at_order_two(x64):
    """Against 1600 steps, halving the step divides the error of S by about four."""
    D = MIXTURE.denoiser(PROCESS)
    x_T = jax.random.normal(jax.random.key(3), (200, 2), jnp.float64)
    exact = float(st.straightness(PROCESS, D, x_T, 1600))
    errors = [abs(float(st.straightness(PROCESS, D, x_T, n)) - exact) for n in (50, 100, 200)]
    assert np.log2(errors[0] / errors[2]) / 2 > 1.85


def test_the_leap_is_the_error_of_the_one_step_sampler(paths):
    plan = gd.plan("euler", PROCESS, nfe=1, grid="uniform_t")
    x = gd.samplers.run(plan, MIXTURE.denoiser(PROCESS), paths.start.astype(np.float32))
    np.testing.assert_allclose(st.squared(x - paths.end), paths.leap, rtol=1e-3, atol=1e-4)


def test_conditions_reach_the_denoiser():
    """A denoiser that answers with its condition is reached on rays."""
    D = jax.tree_util.Partial(lambda x, t, cond: 0 * x + cond[:, None])
    paths = st.follow(PROCESS, D, jnp.zeros((3, 1)), 10, cond=jnp.asarray([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(paths.end[:, 0], [1.0, 2.0, 3.0], rtol=1e-5)


@pytest.mark.parametrize("process", [gd.processes.EDM(), gd.processes.VPLinear(), gd.processes.VPCosine()])
def test_other_clocks_are_refused(process):
    with pytest.raises(ValueError, match=r"needs a path on the unit clock.*RectifiedFlow"):
        st.straightness(process, MIXTURE.denoiser(process), jnp.zeros((2, 2)))
