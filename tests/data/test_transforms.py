"""Pixels and flips; random numbers that belong to positions."""

import numpy as np
import pytest

from gendyn.data import Positional, RandomCrop, from_uint8, random_flip, to_uint8


def test_every_pixel_survives_the_round_trip():
    pixels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_uint8(from_uint8(pixels)), pixels)


def test_pixels_are_rounded_to_the_nearest():
    pixels = np.arange(256, dtype=np.uint8)
    for offset in (-0.49, 0.49):  # of one level, 2 / 255
        assert np.array_equal(to_uint8(from_uint8(pixels) + np.float32(offset / 127.5)), pixels)


def test_values_out_of_range_are_clipped_not_wrapped():
    assert to_uint8(np.array([-1e9, -1.01, 1.01, 1e9])).tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("shape", [(16, 6, 5, 3), (16, 4, 2)])
def test_flip_is_the_mirror_image_or_nothing(shape, rng):
    data = rng.normal(size=shape)
    before = data.copy()
    batch = random_flip({"data": data, "label": np.arange(16)}, rng)
    kinds = [
        ("same", "mirror")[np.array_equal(new, old[..., ::-1, :])]
        for new, old in zip(batch["data"], data)
        if np.array_equal(new, old) or np.array_equal(new, old[..., ::-1, :])
    ]
    assert len(kinds) == 16
    assert set(kinds) == {"same", "mirror"}
    assert np.array_equal(batch["label"], np.arange(16))
    assert np.array_equal(data, before)


def test_vectors_cannot_be_flipped(rng):
    with pytest.raises(ValueError, match="random_flip needs data"):
        random_flip({"data": np.zeros([4, 2])}, rng)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4,), (5,), (2, 3)])
def test_numbers_belong_to_positions(shape):
    """Two draws from position 3, cut anywhere, are the numbers of the whole run."""
    whole, part = Positional(seed=7, first=0), Positional(seed=7, first=3)
    for _ in range(2):
        assert np.array_equal(whole.random((9, *shape))[3:], part.random((6, *shape)))


def test_draws_streams_and_seeds_are_independent():
    draws = [rng.random((2_000,)) for seed in (0, 1) for rng in [Positional(seed=seed, first=0)] for _ in (0, 1)]
    correlation = np.corrcoef(draws) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(2_000)  # 5 sigma


def test_numbers_are_uniform():
    """Moments of 40,000 uniforms to five standard errors."""
    u = Positional(seed=0, first=0).random((10_000, 4))
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / u.size)
    assert abs((u**2).mean() - 1 / 3) < 5 * np.sqrt(4 / 45 / u.size)


def test_crops_are_windows_and_every_place_is_equally_likely(rng):
    """Counts of the 3 x 2 places among 6,000: chi-square with 5 degrees of freedom below its 99.9 % point."""
    picture = np.arange(6 * 5).reshape(6, 5, 1).astype(np.float32)
    batch = {"data": np.repeat(picture[None], 6_000, axis=0), "label": np.arange(6_000)}
    cropped = RandomCrop((4, 4))(batch, rng)
    assert np.array_equal(cropped["label"], batch["label"])
    corners = cropped["data"][:, 0, 0, 0].astype(int)
    assert all(
        np.array_equal(window[..., 0], picture[y : y + 4, x : x + 4, 0])
        for window, (y, x) in zip(cropped["data"][:200], [divmod(corner, 5) for corner in corners])
    )
    counts = np.unique(corners, return_counts=True)
    assert counts[0].tolist() == [0, 1, 5, 6, 10, 11]
    assert ((counts[1] - 1000) ** 2 / 1000).sum() < 20.5


def test_a_crop_larger_than_the_picture_is_refused(rng):
    with pytest.raises(ValueError, match=r"a crop to 7x7 needs data .* at least as large, got shape \[1, 6, 9, 1\]"):
        RandomCrop(7)({"data": np.zeros([1, 6, 9, 1])}, rng)
