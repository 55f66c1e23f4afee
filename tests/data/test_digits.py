"""The embedded digits: the split is fixed, disjoint, complete and fair to every class."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gendyn.data import digits


def rows(source):
    return {row.tobytes() for row in source.data}


def test_sizes_range_and_type():
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1437, 360)
    for source in (train, test):
        assert source.shape == (8, 8, 1)
        assert source.num_classes == 10
        assert source.data.dtype == np.float32
        assert (source.data.min(), source.data.max()) == (-1.0, 1.0)


def test_splits_are_disjoint_and_complete():
    """All 1,797 images differ, so that pixels identify them."""
    train, test = rows(digits("train")), rows(digits("test"))
    assert not train & test
    assert len(train | test) == 1797
    assert train | test == {(i[..., None] / 8 - 1).astype(np.float32).tobytes() for i in load_digits().images}


def test_labels_stay_with_their_images():
    file = load_digits()
    label = {(i[..., None] / 8 - 1).astype(np.float32).tobytes(): t for i, t in zip(file.images, file.target)}
    source = digits("test")
    assert [label[row.tobytes()] for row in source.data] == source.labels.tolist()


def test_classes_keep_their_share():
    whole = np.bincount(load_digits().target)
    test = np.bincount(digits("test").labels)
    assert np.abs(test - whole * 360 / 1797).max() <= 1


def test_the_split_never_moves():
    """A pin, not an oracle: which rows of the file scikit-learn 1.9 puts in the test part. A failure means that
    results on "test" are no longer comparable with earlier ones."""
    place = {(image / 8 - 1).astype(np.float32).tobytes(): i for i, image in enumerate(load_digits().images)}
    places = [place[row.tobytes()] for row in digits("test").data]
    assert places[:10] == [21, 24, 28, 34, 35, 37, 39, 42, 45, 51]
    assert sum(places) == 337_944


def test_another_split_names_the_two():
    with pytest.raises(ValueError, match="'train' and 'test', got 'valid'"):
        digits("valid")
