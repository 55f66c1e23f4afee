"""Averages: profiles are what the definition says, and any width comes back from snapshots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn.training import ema

WIDTHS = (0.05, 0.10)


def profile(std, step, total):
    """Weight of each of `total` parameters in the average of width std at `step`: (i/t)^{g+1} - ((i-1)/t)^{g+1},
    the integral of (g+1) tau^g / t^{g+1} over the i-th unit of time."""
    i = np.arange(1, total + 1)
    cumulative = lambda tau: (np.minimum(tau, step) / step) ** (ema.exponent(std) + 1)
    return cumulative(i) - cumulative(i - 1)


def follow(params, stds=WIDTHS):
    """The averages after every step of a trajectory [steps, n], by the training update."""
    update = jax.jit(lambda average, p, step: ema.update(average, p, step, stds))
    average, history = ema.start(jnp.asarray(params[0]), stds), []
    for step, p in enumerate(params, start=1):
        average = update(average, jnp.asarray(p), step)
        history.append([np.asarray(a) for a in average])
    return np.array(history)


@pytest.mark.parametrize("std", [0.01, 0.05, 0.1, 0.2, 0.28, ema.WIDEST])
def test_exponent_gives_back_its_width(std):
    """The width is the standard deviation of the profile over the run, by quadrature of the definition."""
    tau, weight = np.polynomial.legendre.leggauss(100)
    tau, weight = (tau + 1) / 2, weight / 2
    density = (ema.exponent(std) + 1) * tau ** ema.exponent(std)
    mean = np.sum(weight * density * tau)
    assert np.sqrt(np.sum(weight * density * (tau - mean) ** 2)) == pytest.approx(std, rel=1e-4)


@pytest.mark.parametrize("std", [0.0, -0.1, 0.3, float("nan")])
def test_widths_outside_the_run_are_refused(std):
    with pytest.raises(ValueError, match="fraction of the run between 0 and"):
        ema.exponent(std)


def test_profile_is_the_integral_of_the_definition():
    """Unit impulses as parameters read the weights off."""
    averages = follow(np.eye(50, dtype=np.float32))
    for k, std in enumerate(WIDTHS):
        np.testing.assert_allclose(averages[-1, k], profile(std, 50, 50), atol=1e-6)


def test_gain_is_accurate_late_in_a_long_run():
    """One update at step 10^6, whose gain is about 10^-5, against float64."""
    step = 1_000_000
    for std in WIDTHS:
        (after,) = ema.update((jnp.zeros(()),), jnp.ones(()), jnp.int32(step), (std,))
        exact = -np.expm1((ema.exponent(std) + 1) * np.log1p(-1 / step))
        assert float(after) == pytest.approx(exact, rel=1e-6)


def test_ema_of_constant_is_constant():
    averages = follow(np.full((30, 3), 0.1, np.float32))
    np.testing.assert_array_equal(averages, np.float32(0.1))


def test_ema_starts_from_the_parameters_in_float32():
    params = {"w": jnp.arange(3, dtype=jnp.bfloat16)}
    first, second = ema.start(params, WIDTHS)
    np.testing.assert_array_equal(first["w"], [0, 1, 2])
    assert first["w"].dtype == second["w"].dtype == jnp.float32
    assert first["w"].unsafe_buffer_pointer() != second["w"].unsafe_buffer_pointer()  # both are donated


def test_update_of_bfloat16_parameters_stays_float32():
    params = jnp.ones(2, jnp.bfloat16)
    (after,) = ema.update(ema.start(jnp.zeros(2), (0.05,)), params, jnp.int32(1000), (0.05,))
    assert after.dtype == jnp.float32
    assert 0 < float(after[0]) < 0.1


@pytest.mark.parametrize(("std", "tolerance"), [(0.04, 0.03), (0.07, 0.01), (0.12, 0.01), (0.15, 0.03), (0.2, 0.06)])
def test_combination_reproduces_the_profile(std, tolerance):
    """Ten snapshots of two widths: error of the profile relative to its norm."""
    steps = [s for s in range(100, 1001, 100) for _ in WIDTHS]
    stds = list(WIDTHS) * 10
    weights = ema.combination(steps, stds, 1000, std)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    made = sum(w * profile(s, t, 1000) for w, s, t in zip(weights, stds, steps))
    truth = profile(std, 1000, 1000)
    assert np.linalg.norm(made - truth) < tolerance * np.linalg.norm(truth)


def test_combination_of_a_tracked_width_is_that_snapshot():
    weights = ema.combination([50, 50, 100, 100], [0.05, 0.1, 0.05, 0.1], 100, 0.1)
    np.testing.assert_allclose(weights, [0, 0, 0, 1], atol=1e-9)


def test_post_hoc_width_equals_the_directly_tracked_one(rng):
    """A noisy, drifting trajectory: 0.07 was never tracked; its reconstruction from ten snapshots of 0.05 and 0.10
    is 40 times nearer to the tracked truth than the nearest tracked width is."""
    steps = 500
    drift = np.linspace(0, 1, steps)[:, None] ** 0.5 * rng.normal(size=64)
    params = (drift + 0.1 * rng.normal(size=(steps, 64))).astype(np.float32)
    averages = follow(params, (*WIDTHS, 0.07))
    taken = range(50, steps + 1, 50)
    trees = [averages[t - 1, k] for t in taken for k in range(2)]
    weights = ema.combination([t for t in taken for _ in WIDTHS], list(WIDTHS) * 10, steps, 0.07)
    made, truth = ema.mix(trees, weights), averages[-1, 2]
    error, nearest = (np.linalg.norm(a - truth) for a in (made, averages[-1, 0]))
    assert error < nearest / 40
    assert made.dtype == np.float32
