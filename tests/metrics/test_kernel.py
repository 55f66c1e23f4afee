import numpy as np
import pytest

from gendyn import metrics


def null_draws(rng, repeats, n, m):
    return np.array(
        [
            metrics.mmd(rng.standard_normal((n, 2)), rng.standard_normal((m, 2)), bandwidths=[0.5, 2.0]).value
            for _ in range(repeats)
        ]
    )


def test_estimate_is_unbiased_when_distributions_agree(rng):
    """Mean of 400 null draws within 4 standard errors of 0: false alarm rate 6e-5. The biased estimate is off by
    about (1/n + 1/m)(1 - E k), dozens of such errors, so a diagonal that slipped in would show."""
    draws = null_draws(rng, 400, 20, 30)
    error = draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean()) < 4 * error
    assert error < 0.02 * (1 / 20 + 1 / 30)
    assert (draws < 0).any()


def test_differing_distributions_stand_out_of_the_null(rng):
    a, b = rng.standard_normal((200, 2)), rng.standard_normal((200, 2)) + 0.7
    assert metrics.mmd(a, b, bandwidths=[0.5, 2.0]).value > 5 * null_draws(rng, 40, 200, 200).std()


def test_one_wide_kernel_sees_the_difference_of_means(rng):
    """exp(-r^2 / 2h^2) is 1 - r^2 / 2h^2 for wide kernels, where MMD^2 = (|m_a - m_b|^2 - unbiased noise) / h^2."""
    a, b = rng.standard_normal((60, 3)), rng.standard_normal((80, 3)) + 1.0
    noise = a.var(0, ddof=1).sum() / 60 + b.var(0, ddof=1).sum() / 80
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() - noise
    assert metrics.mmd(a, b, bandwidths=[1e3]).value * 1e6 == pytest.approx(expected, rel=1e-4)


def test_default_bandwidths_follow_the_reference_and_its_units(rng):
    a, b = rng.standard_normal((2, 50, 4))
    small, large = metrics.mmd(a, b), metrics.mmd(10 * a, 10 * b)
    assert small.value == pytest.approx(large.value, rel=1e-9)
    assert metrics.mmd(5 * a, b).settings == small.settings


def test_mixture_of_bandwidths_is_the_mean_of_kernels(rng):
    a, b = rng.standard_normal((2, 30, 2))
    each = [metrics.mmd(a, b, bandwidths=[h]).value for h in (0.5, 1.0, 3.0)]
    assert metrics.mmd(a, b, bandwidths=[0.5, 1.0, 3.0]).value == pytest.approx(np.mean(each), rel=1e-9)


def test_blocks_do_not_change_the_sum(rng):
    """More examples than one block holds, each repeated: the biased part is known, so is the whole."""
    a, b = rng.standard_normal((700, 1)), rng.standard_normal((700, 1))
    n = 1400

    def kernel(x, y):
        return np.exp(-((x - y.T) ** 2) / 2).mean()

    def within(x):
        return (kernel(x, x) * n * n - n) / (n * (n - 1))

    expected = within(a) + within(b) - 2 * kernel(a, b)
    measure = metrics.mmd(np.tile(a, (2, 1)), np.tile(b, (2, 1)), bandwidths=[1.0])
    assert measure.value == pytest.approx(expected, abs=1e-12)


def test_bad_input_is_explained():
    with pytest.raises(ValueError, match="2 examples of each"):
        metrics.mmd(np.zeros((1, 2)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="pass bandwidths"):
        metrics.mmd(np.zeros((3, 2)), np.ones((3, 2)))
