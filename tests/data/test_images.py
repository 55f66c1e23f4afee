"""Folders of images: what is read, and what is said about images that cannot be."""

import logging

import numpy as np
import pytest
from PIL import Image

from gendyn.data import CorruptData, image_folder


@pytest.fixture
def folder(tmp_path, pixels, png):
    """cat/0.png .. cat/2.png, dog/3.png .. dog/5.png, an empty class and things that are no images."""
    for name in ("cat", "dog", "emu", ".cache"):
        (tmp_path / name).mkdir()
    for i, image in enumerate(pixels):
        (tmp_path / ("cat" if i < 3 else "dog") / f"{i}.png").write_bytes(png(image))
    (tmp_path / "readme.txt").write_text("not an image")
    (tmp_path / ".cache" / "0.png").write_bytes(b"")
    (tmp_path / "cat" / ".hidden.png").write_bytes(b"")
    return tmp_path


def test_folder_with_classes(folder, pixels):
    source = image_folder(folder)
    assert np.array_equal(source.data, pixels[..., None])
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (source.class_names, source.num_classes) == (("cat", "dog", "emu"), 3)
    assert source.skipped == ()
    assert source[0]["data"].min() >= -1
    assert source[0]["data"].max() <= 1


def test_flat_folder_has_no_labels(folder, pixels):
    source = image_folder(folder / "cat")
    assert np.array_equal(source.data, pixels[:3, ..., None])
    assert (source.labels, source.num_classes) == (None, None)


def test_images_beside_and_inside_classes(folder, pixels, png):
    (folder / "stray.png").write_bytes(png(pixels[0]))
    with pytest.raises(ValueError, match=r"stray.png is beside"):
        image_folder(folder)


def test_colour_grey_alpha_and_palette(tmp_path, rng, png):
    colour = rng.integers(0, 256, [4, 4, 3], dtype=np.uint8)
    alpha = np.concatenate([colour, np.full([4, 4, 1], 255, np.uint8)], axis=-1)
    (tmp_path / "a.png").write_bytes(png(colour))
    (tmp_path / "b.png").write_bytes(png(alpha))
    palette = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4), mode="P")
    palette.putpalette(colour.tobytes())
    palette.save(tmp_path / "c.png")
    source = image_folder(tmp_path)
    assert source.shape == (4, 4, 3)
    assert all(np.array_equal(image, colour) for image in source.data)
    assert image_folder(tmp_path, channels=1).shape == (4, 4, 1)


def test_first_image_of_another_size_is_named_with_both_sizes(folder, pixels, png):
    (folder / "dog" / "4.png").write_bytes(png(pixels[4, :3]))
    with pytest.raises(ValueError, match=r"dog.4\.png is 3x4x1, but cat.0\.png is 5x4x1 .* pass size="):
        image_folder(folder)
    assert image_folder(folder, size=(3, 2)).shape == (3, 2, 1)
    assert image_folder(folder, size=3).shape == (3, 3, 1)


def test_resizing_keeps_a_constant_image_constant(tmp_path, png):
    (tmp_path / "a.png").write_bytes(png(np.full([9, 14], 77, np.uint8)))
    assert np.array_equal(np.unique(image_folder(tmp_path, size=4).data), [77])


def test_mixed_colours_name_the_remedy(folder, rng, png):
    (folder / "dog" / "4.png").write_bytes(png(rng.integers(0, 256, [5, 4, 3], dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"5x4x3.*channels="):
        image_folder(folder)
    assert image_folder(folder, channels=3).shape == (5, 4, 3)


@pytest.mark.parametrize("keep", [0, 1, 8, 30, 50, -24])
def test_truncated_image_raises_by_name_and_count(folder, keep):
    """Every cut into the pixels is noticed; the last 20 bytes of a PNG are check sums and an end mark."""
    file = folder / "dog" / "4.png"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CorruptData, match=r'^1 of 6 images do not decode: dog.4\.png .*on_corrupt="skip"'):
        image_folder(folder)


def test_skipping_counts_and_keeps_labels_with_their_images(folder, pixels, caplog):
    for name in ("cat/1.png", "dog/5.png"):
        (folder / name).write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        source = image_folder(folder, on_corrupt="skip")
    assert source.skipped == ("cat/1.png", "dog/5.png")
    assert "2 of 6 images do not decode: cat/1.png, dog/5.png" in caplog.text
    assert np.array_equal(source.data, pixels[[0, 2, 3, 4], ..., None])
    assert source.labels.tolist() == [0, 0, 1, 1]


def test_many_corrupt_images_are_counted_and_five_named(tmp_path, pixels, png):
    for i in range(9):
        (tmp_path / f"{i}.png").write_bytes(b"damaged" if i else png(pixels[0]))
    with pytest.raises(CorruptData, match=r"^8 of 9 .*: 1.png, 2.png, 3.png, 4.png, 5.png, \.\.\. \("):
        image_folder(tmp_path)


def test_nothing_left_after_skipping_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"damaged")
    with pytest.raises(CorruptData, match=r"1 of 1 .*nothing is left"):
        image_folder(tmp_path, on_corrupt="skip")


def test_sixteen_bit_images_are_refused_not_clipped(tmp_path, png):
    (tmp_path / "a.png").write_bytes(png(np.full([4, 4], 40_000, np.uint16)))
    with pytest.raises(CorruptData, match="more than 8 bits"):
        image_folder(tmp_path)


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no images in .*looked for files ending in .*'\.png'"):
        image_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no data at .*nowhere"):
        image_folder(tmp_path / "nowhere")
