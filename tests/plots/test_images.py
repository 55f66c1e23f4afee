import os

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gendyn import plots


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_png_is_readable_with_the_right_shape(tmp_path, channels, mode):
    path = plots.save_png(tmp_path / "deep" / "grid.png", np.zeros((10, 8, 8, channels)), columns=4, scale=3, gap=1)
    with Image.open(path) as picture:
        assert picture.mode == mode
        assert picture.size == (3 * (4 * 8 + 3), 3 * (3 * 8 + 2))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_comes_back_in_its_place(tmp_path, rng, channels):
    images = rng.integers(0, 256, (6, 5, 4, channels), dtype=np.uint8)
    written = read(plots.save_png(tmp_path / "g.png", images, columns=3, scale=2, gap=1)).reshape(22, 28, channels)
    for i, image in enumerate(images):
        top, left = 2 * 6 * (i // 3), 2 * 5 * (i % 3)
        block = written[top : top + 10, left : left + 8]
        assert (block[::2, ::2] == image).all()
        assert (block[1::2, 1::2] == image).all()


def test_floats_and_bytes_of_the_same_image_agree(rng):
    pixels = rng.integers(0, 256, (4, 3, 3, 1), dtype=np.uint8)
    floats = pixels / 127.5 - 1.0
    for images in (floats, floats.astype(np.float32), jnp.asarray(floats)):
        assert (plots.grid(images, scale=1) == plots.grid(pixels, scale=1)).all()


def test_values_outside_are_clipped_and_broken_ones_black():
    values = np.array([-5.0, 5.0, np.nan, np.inf]).reshape(4, 1, 1, 1)
    assert plots.grid(values, columns=4, scale=1, gap=0).ravel().tolist() == [0, 255, 0, 0]
    assert plots.grid(jnp.ones((1, 2, 2, 1), jnp.bfloat16)).max() == 255


def test_tiny_images_are_enlarged_and_large_ones_left():
    assert plots.grid(np.zeros((1, 8, 8, 1))).shape == (64, 64, 1)
    assert plots.grid(np.zeros((1, 100, 80, 3))).shape == (100, 80, 3)
    assert plots.grid(np.zeros((9, 8, 8, 1)), gap=0).shape == (192, 192, 1)
    assert plots.grid(np.zeros((2, 8, 8, 1)), columns=50, gap=0, scale=1).shape == (8, 16, 1)


@pytest.mark.parametrize("failing", ["encode", "rename"])
def test_a_failing_write_leaves_the_old_file_and_no_half_file(tmp_path, monkeypatch, failing):
    path = plots.save_png(tmp_path / "g.png", np.zeros((1, 8, 8, 1)))
    before = path.read_bytes()

    def half(self, file, **kwargs):
        file.write(b"half")
        raise OSError("disk full")

    def refuse(*args):
        raise OSError("disk full")

    if failing == "encode":
        monkeypatch.setattr(Image.Image, "save", half)
    else:
        monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        plots.save_png(path, np.ones((1, 8, 8, 1)))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["g.png"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 8, 8)), "shape .4, 8, 8."),
        (np.zeros((4, 8, 8, 4)), "1 or 3"),
        (np.zeros((0, 8, 8, 1)), "shape .0, 8, 8, 1."),
        (np.zeros((1, 8, 8, 1), int), "int64"),
    ],
)
def test_bad_images_are_explained(images, message):
    with pytest.raises(ValueError, match=message):
        plots.grid(images)


def test_bad_layout_is_explained():
    with pytest.raises(ValueError, match="columns >= 1"):
        plots.grid(np.zeros((1, 8, 8, 1)), columns=0)
