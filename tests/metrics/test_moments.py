import functools

import jax
import numpy as np
import pytest
from scipy import linalg

from gendyn import metrics
from gendyn.metrics import moments


def exact_sample(rng, n, mean, covariance):
    """n points whose sample mean and covariance are these, to rounding."""
    d = len(mean)
    z = rng.standard_normal((n, d))
    z -= z.mean(0)
    white = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T).reshape(d, d))).T
    return mean + white @ np.linalg.cholesky(covariance).T


def random_covariance(rng, d):
    root = rng.standard_normal((d, d))
    return root @ root.T + 0.1 * np.eye(d)


def test_commuting_gaussians_match_the_closed_form(rng):
    mean_a, mean_b = rng.standard_normal((2, 4))
    deviation_a, deviation_b = rng.uniform(0.2, 2.0, (2, 4))
    a = exact_sample(rng, 30, mean_a, np.diag(deviation_a**2))
    b = exact_sample(rng, 50, mean_b, np.diag(deviation_b**2))
    expected = ((mean_a - mean_b) ** 2).sum() + ((deviation_a - deviation_b) ** 2).sum()
    assert metrics.frechet(a, b).value == pytest.approx(expected, rel=1e-10)


def test_two_by_two_matches_cayley_hamilton(rng):
    """For 2x2 matrices tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)): an oracle without any matrix root."""
    covariance_a, covariance_b = random_covariance(rng, 2), random_covariance(rng, 2)
    a, b = (exact_sample(rng, 20, np.zeros(2), c) for c in (covariance_a, covariance_b))
    product = covariance_a @ covariance_b
    root_trace = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = np.trace(covariance_a) + np.trace(covariance_b) - 2 * root_trace
    assert metrics.frechet(a, b).value == pytest.approx(expected, rel=1e-9)


def test_matches_the_root_of_the_product(rng):
    a, b = (exact_sample(rng, 40, np.zeros(6), random_covariance(rng, 6)) for _ in range(2))
    product_root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = np.trace(np.cov(a.T) + np.cov(b.T) - 2 * product_root)
    assert metrics.frechet(a, b).value == pytest.approx(expected, rel=1e-8)


def test_isometries_leave_it_and_units_square_it(rng):
    a, b = rng.standard_normal((40, 5)), rng.standard_normal((60, 5)) * 2
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    value = metrics.frechet(a, b).value
    assert metrics.frechet(a @ rotation + 3, b @ rotation + 3).value == pytest.approx(value, rel=1e-10)
    assert metrics.frechet(3 * a, 3 * b).value == pytest.approx(9 * value, rel=1e-10)
    assert metrics.frechet(b, a).value == pytest.approx(value, rel=1e-10)


def test_fewer_examples_than_dimensions(rng):
    """Covariances whose supports are orthogonal do not overlap: the distance is the sum of traces."""
    a, b = np.zeros((2, 5, 40))
    a[:, :20], b[:, 20:] = rng.standard_normal((2, 5, 20))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()
    assert metrics.frechet(a, b).value == pytest.approx(expected, rel=1e-6)
    assert 0.0 <= metrics.frechet(a, a).value < 1e-10


@pytest.mark.parametrize("cuts", [[1], [0, 50], [10, 11, 70], list(range(1, 100))])
def test_updates_and_merges_equal_one_pass(rng, cuts):
    data = rng.standard_normal((100, 3)) + 5.0
    whole = moments.update(moments.empty(3, "coordinates"), data)
    parts = [moments.update(moments.empty(3, "coordinates"), part) for part in np.split(data, cuts)]
    for joined in (functools.reduce(moments.merge, parts), functools.reduce(moments.merge, parts[::-1])):
        assert joined.n == 100
        np.testing.assert_allclose(joined.mean, whole.mean, rtol=1e-13)
        np.testing.assert_allclose(joined.scatter, whole.scatter, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(whole.scatter / 99, np.cov(data.T), rtol=1e-12)


def test_blocks_of_a_large_set_equal_one_pass(rng):
    a, b = rng.standard_normal((2, 2500, 2))
    fit_a, fit_b = (moments.update(moments.empty(2, "coordinates"), x) for x in (a, b))
    assert metrics.frechet(a, b).value == pytest.approx(moments.compute(fit_a, fit_b).value, rel=1e-9)


def test_a_large_offset_costs_no_digits(rng):
    """Sums of f f^T would leave about (1e8)^2 1e-16 = 1 of a variance of 1."""
    data = rng.standard_normal((100, 2))
    parts = np.split(data + 1e8, 10)
    state = functools.reduce(moments.update, parts, moments.empty(2, "coordinates"))
    np.testing.assert_allclose(state.scatter, 99 * np.cov(data.T), rtol=1e-6, atol=1e-5)


def test_states_travel_in_single_precision(rng):
    data = rng.standard_normal((100, 2)) + 1e3
    halves = [moments.update(moments.empty(2, "coordinates"), half) for half in np.split(data, 2)]
    sent = [jax.tree.map(lambda leaf: np.float32(leaf) if np.ndim(leaf) else leaf, half) for half in halves]
    np.testing.assert_allclose(moments.merge(*sent).scatter, moments.merge(*halves).scatter, rtol=1e-3, atol=1e-3)


def test_features_are_applied_and_recorded(rng):
    images = rng.standard_normal((30, 4, 4, 1))
    means = metrics.Features(name="row means", apply=lambda x: x.mean(axis=(2, 3)))
    measure = metrics.frechet(images, images + 0.5, means)
    assert measure.value == pytest.approx(4 * 0.25)
    assert str(measure) == "frechet = 1 (n=30 against 30, features: row means)"


def test_bad_input_is_explained(rng):
    state = moments.update(moments.empty(2, "pixels"), rng.standard_normal((5, 2)))
    with pytest.raises(ValueError, match="'pixels' of 2 numbers and 'inception' of 2"):
        moments.compute(state, moments.empty(2, "inception"))
    with pytest.raises(ValueError, match="at least 2 examples, got 0"):
        moments.compute(state, moments.empty(2, "pixels"))
