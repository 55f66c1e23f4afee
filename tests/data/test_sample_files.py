"""Files of many samples: zips that other tools read, and what is refused."""

import io
import json
import zipfile

import numpy as np
import pytest
from etils import epath
from PIL import Image

from gendyn.data import SampleFiles, sample_files, shards, verify
from gendyn.data.records import Layout
from gendyn.data.sample_formats import FORMATS

HOW = {"sampler": "heun", "seed": 0, "num_classes": 5}


def layout(*shape, dtype="uint8", labelled=True):
    return Layout(encoding="raw", shape=shape, dtype=dtype, labelled=labelled)


def drawn(folder, images, labels, each=3, **options):
    """All files of a set, the last one first."""
    files = SampleFiles(folder=epath.Path(folder), num=len(images), each=each, **options)
    files.begin(HOW)
    for index in reversed(files.missing()):
        rows = files.rows(index)
        files.write(index, images[rows.start : rows.stop], None if labels is None else labels[rows.start : rows.stop])
        files.finish()
    return files


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("labelled", [True, False])
def test_every_kind_gives_back_what_was_written(tmp_path, rng, kind, labelled):
    images, labels = rng.integers(0, 256, (5, 4, 4, 3), np.uint8), np.arange(5)[::-1] if labelled else None
    files = drawn(tmp_path, images, labels, kind=kind, layout=layout(4, 4, 3, labelled=labelled))
    assert sample_files(tmp_path) == files
    parts = list(files.read())
    np.testing.assert_array_equal(np.concatenate([data for data, _ in parts]), images)
    if labelled:
        np.testing.assert_array_equal(np.concatenate([label for _, label in parts]), labels)
    else:
        assert [label for _, label in parts] == [None, None]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_damaged_file_is_named_and_one_that_is_cut_short_is_no_file(tmp_path, rng, kind):
    images = rng.integers(0, 256, (4, 4, 4, 1), np.uint8)
    files = drawn(tmp_path, images, None, kind=kind, layout=layout(4, 4, 1, labelled=False), each=2)
    whole = files.path(1).read_bytes()
    files.path(1).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"samples-00001-of-00002\S* cannot be read .*remove it and draw it again"):
        list(files.read())
    files.path(1).unlink()
    with pytest.raises(ValueError, match=r"1 of the 2 files of .* are missing"):
        list(files.read())


def test_records_are_a_data_set_once_all_are_there(tmp_path, rng):
    data, labels = rng.normal(size=(5, 7)).astype(np.float32), np.arange(5)
    drawn(tmp_path, data, labels, kind="array_record", layout=layout(7, dtype="float32"))
    source = shards(tmp_path, "samples")
    assert (len(source), source.num_classes, source.shape) == (5, 5, (7,))
    found = source.take(np.array([4, 0, 3]))
    np.testing.assert_array_equal(found["data"], data[[4, 0, 3]])
    np.testing.assert_array_equal(found["label"], [4, 0, 3])
    assert not [fault for _, fault in verify(tmp_path, "samples") if fault]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_zip_holds_the_very_pixels_and_their_labels(tmp_path, rng, channels):
    images, labels = rng.integers(0, 256, (5, 4, 4, channels), np.uint8), np.arange(5)[::-1]
    drawn(tmp_path, images, labels, kind="zip", layout=layout(4, 4, channels))
    with zipfile.ZipFile(tmp_path / "samples-00001-of-00002.zip") as archive:  # by the names that EDM's tools expect
        name, label = json.loads(archive.read("dataset.json"))["labels"][1]
        assert (name, label) == ("00000/img00000004.png", 0)
        pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))))
    np.testing.assert_array_equal(pixels.reshape(4, 4, channels), images[4])


def test_floats_in_a_zip_and_folders_of_something_else_are_refused(tmp_path):
    options = {"folder": epath.Path(tmp_path), "num": 2, "each": 2}
    files = SampleFiles(kind="zip", layout=layout(4, 4, 1, dtype="float32"), **options)
    with pytest.raises(ValueError, match=r"a zip holds images of bytes.*Use npz"):
        files.begin(HOW)
    files = SampleFiles(kind="array_record", layout=layout(4, dtype="float64"), **options)
    with pytest.raises(ValueError, match=r"array_record holds uint8, float16, float32.*float64. Use npz"):
        files.begin(HOW)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match=r"samples\.json is missing"):
        sample_files(tmp_path)
    (tmp_path / "samples.json").write_text('{"num": 2}')
    with pytest.raises(ValueError, match="holds no files of samples"):
        sample_files(tmp_path)


def test_every_file_has_one_part(tmp_path):
    files = SampleFiles(folder=epath.Path(tmp_path), num=100, each=9, layout=layout(2))
    shared = [files.missing(part, 5) for part in range(5)]
    assert sorted(index for own in shared for index in own) == list(range(12))
    assert [i for index in range(12) for i in files.rows(index)] == list(range(100))
