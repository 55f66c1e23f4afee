"""Files of many samples: zips that other tools read, and what is refused."""

import io
import json
import zipfile

import numpy as np
import pytest
from etils import epath
from PIL import Image

from gendyn.data import SampleFiles, sample_files

HOW = {"sampler": "heun", "seed": 0}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_zip_holds_the_very_pixels_and_their_labels(tmp_path, rng, channels):
    images, labels = rng.integers(0, 256, (5, 4, 4, channels), np.uint8), np.arange(5)[::-1]
    files = SampleFiles(folder=epath.Path(tmp_path), num=5, each=3, kind="zip")
    files.begin(HOW)
    for index in files.missing():
        rows = files.rows(index)
        files.write(index, images[rows.start : rows.stop], labels[rows.start : rows.stop])
    found = sample_files(tmp_path)
    assert found == files
    np.testing.assert_array_equal(np.concatenate([x for x, _ in found.read()]), images)
    np.testing.assert_array_equal(np.concatenate([y for _, y in found.read()]), labels)
    with zipfile.ZipFile(tmp_path / "samples-00001-of-00002.zip") as archive:  # by the names that EDM's tools expect
        name, label = json.loads(archive.read("dataset.json"))["labels"][1]
        assert (name, label) == ("00000/img00000004.png", 0)
        pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))))
    np.testing.assert_array_equal(pixels.reshape(4, 4, channels), images[4])


def test_floats_in_a_zip_and_folders_of_something_else_are_refused(tmp_path):
    files = SampleFiles(folder=epath.Path(tmp_path), num=2, each=2, kind="zip")
    with pytest.raises(ValueError, match=r"a zip holds images of bytes.*Use npz"):
        files.write(0, np.zeros((2, 4, 4, 1)), None)
    assert files.missing() == [0]
    with pytest.raises(FileNotFoundError, match=r"samples\.json is missing"):
        sample_files(tmp_path)
    (tmp_path / "samples.json").write_text('{"num": 2}')
    with pytest.raises(ValueError, match="holds no files of samples"):
        sample_files(tmp_path)


def test_every_file_has_one_part(tmp_path):
    files = SampleFiles(folder=epath.Path(tmp_path), num=100, each=9)
    shared = [files.missing(part, 5) for part in range(5)]
    assert sorted(index for own in shared for index in own) == list(range(12))
    assert [i for index in range(12) for i in files.rows(index)] == list(range(100))
