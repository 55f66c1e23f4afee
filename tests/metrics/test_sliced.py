import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats

from gendyn import metrics


@pytest.mark.parametrize(("n", "m"), [(7, 7), (6, 10), (5, 8), (1, 9), (360, 144)])
def test_order_one_matches_scipy_for_any_sizes(rng, n, m):
    a, b = rng.standard_normal(n), rng.exponential(size=m)
    assert metrics.wasserstein(a, b, order=1.0) == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-12)


def test_order_two_is_the_best_assignment(rng):
    a, b = rng.standard_normal(40), rng.exponential(size=40)
    cost = (a[:, None] - b) ** 2
    best = cost[optimize.linear_sum_assignment(cost)].mean()
    assert metrics.wasserstein(a, b) == pytest.approx(np.sqrt(best), rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(6, 10), (5, 8), (12, 3)])
def test_unequal_sizes_equal_the_common_refinement(rng, n, m):
    """Repeating every example of a set leaves its distribution as it is; at the common multiple the sizes agree."""
    a, b = rng.standard_normal((n, 3)), rng.standard_normal((m, 3))
    common = np.lcm(n, m)
    repeated = metrics.wasserstein(a.repeat(common // n, 0), b.repeat(common // m, 0))
    np.testing.assert_allclose(metrics.wasserstein(a, b), repeated, rtol=1e-12)


def test_one_dimensional_gaussians_match_the_closed_form():
    """W2 between N(0, 1) and N(1, 3^2) is sqrt(1^2 + 2^2); the sets are quantiles, of different sizes."""
    few, many = (special.ndtri((np.arange(n) + 0.5) / n) for n in (15_000, 20_000))
    assert metrics.wasserstein(many, 1 + 3 * few) == pytest.approx(np.sqrt(5), rel=2e-3)


def test_shift_is_found_in_every_direction(rng):
    """E <v, theta>^2 = |v|^2 / d; over 4096 directions in d = 5 the mean scatters by 1.7 %, five sigma is 8.5 %."""
    a, v = rng.standard_normal((50, 5)), np.array([1.0, -2.0, 0.5, 3.0, 0.0])
    measure = metrics.sliced_wasserstein(a, a + v, projections=4096)
    assert measure.value**2 == pytest.approx(v @ v / 5, rel=0.085)
    twice = metrics.sliced_wasserstein(a, a + 2 * v, projections=4096)
    assert twice.value == pytest.approx(2 * measure.value, rel=1e-12)


def test_one_dimension_needs_no_directions(rng):
    a, b = rng.standard_normal((30, 1)), rng.standard_normal((20, 1)) + 1
    one, many = (metrics.sliced_wasserstein(a, b, projections=p, seed=p).value for p in (1, 100))
    assert one == pytest.approx(float(metrics.wasserstein(a, b)[0]), rel=1e-12)
    assert many == pytest.approx(one, rel=1e-12)


def test_images_of_any_array_module_are_flattened(rng):
    a, b = rng.standard_normal((2, 12, 4, 4, 1)).astype(np.float32)
    on_device = metrics.sliced_wasserstein(jnp.asarray(a), jnp.asarray(b))
    assert on_device.value == metrics.sliced_wasserstein(a.reshape(12, -1), b.reshape(12, -1)).value
    assert on_device.features == "pixels"


def test_identical_sets_are_at_zero_and_seeds_are_reproducible(rng):
    a, b = rng.standard_normal((2, 25, 3))
    assert metrics.sliced_wasserstein(a, rng.permutation(a)).value == 0.0
    assert metrics.sliced_wasserstein(a, b, seed=3) == metrics.sliced_wasserstein(a, b, seed=3)
    assert metrics.sliced_wasserstein(a, b, seed=3).value != metrics.sliced_wasserstein(a, b, seed=4).value


def test_bad_input_is_explained(rng):
    a = rng.standard_normal((4, 2))
    with pytest.raises(ValueError, match="one shape"):
        metrics.sliced_wasserstein(a, rng.standard_normal((4, 3)))
    with pytest.raises(ValueError, match=r"1 of the 4 examples .* number 2"):
        metrics.sliced_wasserstein(np.where(np.arange(4)[:, None] == 2, np.nan, a), a)
    with pytest.raises(ValueError, match="empty"):
        metrics.sliced_wasserstein(a[:0], a)
    with pytest.raises(ValueError, match="projections=0"):
        metrics.sliced_wasserstein(a, a, projections=0)
