import numpy as np
import pytest

from gendyn import metrics


def test_copies_are_at_exactly_zero(rng):
    train = rng.uniform(-1, 1, (700, 8, 8, 1)).astype(np.float32)
    distance, index = metrics.nearest(train[::-1], train)
    assert (distance == 0.0).all()
    assert (index == np.arange(700)[::-1]).all()


def test_near_copies_are_not_blurred_by_cancellation(rng):
    """|a|^2 + |b|^2 - 2 a.b of unit numbers ends at distances of about 1e-8; a shift by 1e-11 must still be seen."""
    train = rng.standard_normal((40, 9))
    np.testing.assert_allclose(metrics.nearest_distance(train + 1e-11, train), 3e-11, rtol=1e-3)


def test_matches_brute_force_across_blocks(rng):
    samples, train = rng.standard_normal((30, 6)), rng.standard_normal((50, 6))
    expected = np.linalg.norm(samples[:, None] - train, axis=-1).min(1)
    np.testing.assert_allclose(metrics.nearest(samples, train, rows=7)[0], expected, rtol=1e-12)


def test_fresh_data_of_the_same_kind_has_ratio_one(rng):
    """near_share expects 0.05 with standard deviation sqrt(2 x 0.05 x 0.95 / 1500) = 0.008; five of them are asked."""
    train, test, samples = rng.standard_normal((3, 1500, 4))
    result = metrics.compare_nearest(samples, test, train)
    assert result.ratio == pytest.approx(1.0, abs=0.05)
    assert result.near_share == pytest.approx(0.05, abs=0.04)


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_a_few_copies_show_where_the_median_does_not(rng, share):
    train, test, samples = rng.standard_normal((3, 1000, 4))
    copied = int(share * len(samples))
    samples[:copied] = train[:copied]
    result = metrics.compare_nearest(samples, test, train)
    assert result.near_share == pytest.approx(share + 0.05 * (1 - share), abs=0.05)
    assert result.ratio > 0.5


def test_copied_and_jittered_samples_have_the_size_of_the_jitter(rng):
    train, test = rng.standard_normal((2, 300, 16))
    samples = train + 0.01 * rng.standard_normal(train.shape)
    result = metrics.compare_nearest(samples, test, train)
    assert result.median == pytest.approx(0.01 * 4, rel=0.1)  # |N(0, 1)^16| is about 4
    assert result.ratio < 0.05
    assert result.near_share == 1.0


def test_record_says_all_three_sizes(rng):
    train, test = rng.standard_normal((50, 2)), rng.standard_normal((20, 2))
    text = str(metrics.compare_nearest(test[:7], test, train))
    assert "n=7" in text
    assert "n=20" in text
    assert "50 training" in text


def test_shapes_must_agree(rng):
    with pytest.raises(ValueError, match="one shape"):
        metrics.nearest_distance(rng.standard_normal((3, 2)), rng.standard_normal((3, 3)))
