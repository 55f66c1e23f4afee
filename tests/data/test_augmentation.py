"""Moves of pictures and the numbers that describe them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gendyn.data import Augmentation, Moves, warp
from gendyn.data.warping import CENTRE, SYM6, coarser, finer

SIDES = (8, 12)
EXACT = {"rtol": 0, "atol": 2e-6}
"""Float32 rounding of the two filters."""


def moves(n, **fields):
    """Moves of n pictures, nothing but the given ones."""
    still = {name: np.zeros(n) for name in ("mirror_x", "mirror_y", "zoom", "angle", "stretch", "tilt")}
    fields = {
        name: jnp.asarray(value, jnp.float32) for name, value in (still | {"shift": np.zeros((n, 2))} | fields).items()
    }
    return Moves(**fields)


def affine(linear=((1, 0), (0, 1)), by=(0, 0)):
    """One inverse map."""
    return jnp.array([[[*linear[0], by[0]], [*linear[1], by[1]], [0, 0, 1]]], jnp.float32)


@pytest.fixture
def pictures(rng):
    return jnp.asarray(rng.normal(size=(5, *SIDES, 3)), jnp.float32)


@pytest.fixture(scope="module")
def drawn():
    return jax.jit(Augmentation(p=0.5).draw, static_argnums=1)(jax.random.key(3), 4000)


def test_the_filter_is_orthonormal_with_six_vanishing_moments():
    """Enough equations to fix a symlet's twelve coefficients, up to the choice among the few solutions."""
    for shift in range(6):
        assert SYM6[: 12 - 2 * shift] @ SYM6[2 * shift :] == pytest.approx(float(shift == 0), abs=1e-11)
    alternating = SYM6 * (-1.0) ** np.arange(12)
    for power in range(6):
        assert alternating @ ((np.arange(12) - 5.5) / 5.5) ** power == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("n", [2, 3, 8, 13])
def test_coarse_after_fine_is_the_identity(n):
    period = 4 * (n - 1)
    read = (np.arange(2 * n + 10) - CENTRE) % period
    np.testing.assert_allclose(coarser(n) @ finer(n)[read], np.eye(n), atol=1e-11)


def test_probability_zero_changes_no_bit(pictures):
    moved, label = jax.jit(Augmentation(p=0.0))(jax.random.key(0), pictures)
    assert np.array_equal(moved, pictures)
    assert not np.asarray(label).any()
    assert label.shape == (5, 9)


def test_still_pictures_stay_bit_identical_beside_moved_ones(pictures):
    moved = moves(5, zoom=[0, 1, 0, 1, 0])(pictures)
    same = [np.array_equal(a, b) for a, b in zip(moved, pictures)]
    assert same == [True, False, True, False, True]


@pytest.mark.parametrize(("name", "axis"), [("mirror_x", 2), ("mirror_y", 1)])
def test_mirrors_are_exact(pictures, name, axis):
    moved = moves(5, **{name: [1, 0, 1, 0, 1]})(pictures)
    assert np.array_equal(moved[::2], jnp.flip(pictures, axis)[::2])
    assert np.array_equal(moved[1::2], pictures[1::2])


@pytest.mark.parametrize("by", [(1, 0), (0, -3), (5, 2), (-30, 41)])
def test_shifts_by_whole_pixels_are_exact_however_far(pictures, by):
    """The mirrored continuation, shifted, is numpy's reflected padding cut elsewhere."""
    pad = 48
    wide = np.pad(pictures, [(0, 0), (pad, pad), (pad, pad), (0, 0)], mode="reflect")
    x, y = pad - by[0], pad - by[1]
    expected = wide[:, y : y + SIDES[0], x : x + SIDES[1]]
    inverse = jnp.repeat(affine(by=(-by[0], -by[1])), 5, axis=0)
    np.testing.assert_allclose(warp(pictures, inverse), expected, **EXACT)


def test_shift_is_in_eighths_of_the_sides(pictures):
    """Twelve columns and eight rows: (2/1.5, -1) eighths are two columns and minus one row."""
    moved = moves(5, shift=np.tile([2 / 1.5, -1], (5, 1)))(pictures)
    expected = warp(pictures, jnp.repeat(affine(by=(-2, 1)), 5, axis=0))
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-5)


def quarters(n, turns):
    """The inverse maps of n pictures that are turned against the clock."""
    turned = moves(n, angle=[turns * np.pi / 2] * n)
    return turned.inverse(8, 8)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_take_fine_samples_to_fine_samples(turns, rng):
    """Nothing is interpolated: the turned picture is the filter over whole samples, found by integer indices."""
    picture = rng.normal(size=(8, 8))
    fine = finer(8) @ picture @ finer(8).T
    there = np.arange(26) - CENTRE - 7  # twice the place from the centre
    y, x = np.meshgrid(there, there, indexing="ij")
    for _ in range(turns):
        x, y = -y, x
    expected = coarser(8) @ fine[(y + 7) % 28, (x + 7) % 28] @ coarser(8).T
    turned = warp(jnp.asarray(picture[None, ..., None], jnp.float32), quarters(1, turns))
    np.testing.assert_allclose(turned[0, ..., 0], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_turn_pictures(turns):
    """Up to the filter, which is not quite symmetric: its phase shows, but far below the size of the picture."""
    y, x = np.meshgrid(np.arange(8) - 3.5, np.arange(8) - 3.5, indexing="ij")
    smooth = np.exp(-((x - 1) ** 2 + 2 * (y + 1) ** 2) / 30)[None, ..., None]
    turned = warp(jnp.asarray(smooth, jnp.float32), quarters(1, turns))
    others = [np.abs(turned - np.rot90(smooth, k, axes=(1, 2))).max() for k in range(4)]
    assert int(np.argmin(others)) == turns
    assert others[turns] < 0.05


def test_every_map_undoes_its_opposite(drawn):
    """Zoom, turn, stretch and shift alone, then with the opposite sign."""
    for name in ("zoom", "angle", "stretch", "shift"):
        value = getattr(drawn, name)
        there, back = (moves(4000, **{name: sign * value}, tilt=drawn.tilt).inverse(*SIDES) for sign in (1, -1))
        np.testing.assert_allclose(there @ back, np.tile(np.eye(3), (4000, 1, 1)), atol=2e-5)


def test_only_zoom_changes_areas(drawn):
    inverse = np.asarray(drawn.inverse(*SIDES), np.float64)
    np.testing.assert_allclose(np.linalg.det(inverse), 2 ** (-0.4 * np.asarray(drawn.zoom, np.float64)), rtol=1e-5)
    assert np.array_equal(inverse[:, 2], np.tile([0, 0, 1], (4000, 1)))


def test_labels_describe_what_was_done(drawn):
    """Everything but the sign of the stretch, which the label leaves open, is read back from the nine numbers."""
    label = np.asarray(drawn.labels(), np.float64)
    assert np.array_equal(label[:, 0], drawn.mirror_x)
    assert np.array_equal(label[:, 1], drawn.mirror_y)
    angle, tilt = np.arctan2(label[:, 4], label[:, 3] + 1), np.arctan2(label[:, 6], label[:, 5])
    read = moves(
        4000, zoom=label[:, 2], angle=angle, stretch=np.hypot(label[:, 5], label[:, 6]), tilt=tilt, shift=label[:, 7:]
    )
    np.testing.assert_allclose(read.labels()[:, 2:], label[:, 2:], atol=1e-5)
    sure = np.asarray(drawn.stretch) >= 0
    np.testing.assert_allclose(read.inverse(*SIDES)[sure], drawn.inverse(*SIDES)[sure], atol=1e-5)


def test_opposite_stretches_may_share_a_label():
    one, other = moves(1, stretch=[1.0], tilt=[0.3]), moves(1, stretch=[-1.0], tilt=[0.3 + np.pi])
    np.testing.assert_allclose(one.labels(), other.labels(), atol=1e-6)
    np.testing.assert_allclose((one.inverse(8, 8) @ other.inverse(8, 8))[0], np.eye(3), atol=1e-6)


def test_gates_open_as_often_as_they_say(drawn):
    """To five standard errors of 4000 draws; left and right are exchanged in one half at any p."""
    expected = {"mirror_x": 0.5, "mirror_y": 0.25, "zoom": 0.5, "angle": 0.5, "stretch": 0.5, "tilt": 0.5}
    rates = {name: np.mean(np.asarray(getattr(drawn, name)) != 0) for name in expected}
    assert rates == pytest.approx(expected, abs=5 * 0.5 / np.sqrt(4000))
    both = np.asarray(drawn.shift) != 0
    assert np.array_equal(both[:, 0], both[:, 1])
    assert abs(both.mean() - 0.5) < 5 * 0.5 / np.sqrt(4000)


def test_constant_pictures_stay_constant():
    ones = jnp.ones((16, *SIDES, 1))
    moved, _ = jax.jit(Augmentation(p=1.0))(jax.random.key(0), ones)
    np.testing.assert_allclose(moved, ones, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 8, 1)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(ValueError, match="needs pictures"):
        jax.eval_shape(Augmentation(), jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"), [({"p": 1.5}, "p is a probability"), ({"zoom": -1.0}, "zoom is a fac")]
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)
