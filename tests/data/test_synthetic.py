"""Two-dimensional sets: scale in law, parts, and the one whose law is known."""

import numpy as np
import pytest

from gendyn.data import synthetic2d
from gendyn.data.synthetic import SHAPES

N = 40_000


@pytest.mark.parametrize("noise", [None, 0.5])
@pytest.mark.parametrize("name", SHAPES)
def test_mean_zero_and_mean_square_two(name, noise):
    """Five standard errors each; the constants are closed forms, the sample only checks them."""
    x = synthetic2d(name, n=N, seed=1, noise=noise).data.astype(np.float64)
    square = (x**2).sum(axis=1)
    assert (np.abs(x.mean(axis=0)) < 5 * x.std(axis=0) / np.sqrt(N)).all()
    assert abs(square.mean() - 2) < max(5 * square.std() / np.sqrt(N), 1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_parts_are_all_there_and_equally_likely(name):
    source = synthetic2d(name, n=N)
    if source.num_classes is None:
        assert source.labels is None
    else:
        counts = np.bincount(source.labels, minlength=source.num_classes)
        share = N / source.num_classes
        assert (np.abs(counts - share) < 5 * np.sqrt(share)).all()


@pytest.mark.parametrize("name", SHAPES)
def test_seeds(name):
    first, again, other = (synthetic2d(name, n=100, seed=seed).data for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.intersect1d(first, other).size


def test_checkerboard_squares():
    """On the board of unit squares, column + row is even, and a label is one square."""
    source = synthetic2d("checkerboard", n=N)
    squares = np.floor(source.data / np.sqrt(3 / 4) + 2).astype(int)
    assert squares.min() == 0
    assert squares.max() == 3
    assert (squares.sum(axis=1) % 2 == 0).all()
    assert len(np.unique(squares, axis=0)) == 8
    assert all(len(np.unique(squares[source.labels == k], axis=0)) == 1 for k in range(8))


def test_gaussians8_is_the_mixture_that_its_docstring_states():
    s = 0.1
    source = synthetic2d("gaussians8", n=N, noise=s)
    for k in range(8):
        mode = source.data[source.labels == k].astype(np.float64)
        error = mode.std() / np.sqrt(len(mode))
        angle = 2 * np.pi * k / 8
        mean = np.sqrt(2 / (1 + s**2)) * np.array([np.cos(angle), np.sin(angle)])
        expected = s / np.sqrt(1 + s**2)
        assert (np.abs(mode.mean(axis=0) - mean) < 5 * error).all()
        assert np.abs(mode.std(axis=0) / expected - 1).max() < 5 / np.sqrt(2 * len(mode))


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"no two-dimensional set 'ring', choose one of .*'rings'"):
        synthetic2d("ring")
