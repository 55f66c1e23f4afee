"""Two sources as the two ends of a path."""

import numpy as np
import pytest

from gendyn.data import arrays, paired
from gendyn.data.loader import take

DATA = arrays(np.arange(10.0)[:, None], np.arange(10) % 3)


def test_labels_and_data_stay_and_each_has_a_partner():
    base = arrays(100 + np.arange(4.0)[:, None])
    source = paired(DATA, base, seed=1)
    batch = take(source, np.arange(10))
    np.testing.assert_array_equal(batch["data"], DATA.data)
    np.testing.assert_array_equal(batch["label"], DATA.labels)
    assert (source.shape, source.num_classes, len(source)) == ((1,), 3, 10)
    used, counts = np.unique(batch["base"], return_counts=True)
    assert used.tolist() == [100, 101, 102, 103]
    assert set(counts) <= {2, 3}
    np.testing.assert_array_equal(source[7]["base"], batch["base"][7])


def test_the_order_is_the_seeds():
    base = arrays(np.arange(20.0)[:, None])
    first, same, other = (take(paired(DATA, base, seed=s), np.arange(10))["base"].ravel() for s in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert len(np.unique(first)) == 10


def test_ends_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shaped alike; got data of shape \(1,\) and a base of 3 examples of shape"):
        paired(DATA, arrays(np.zeros((3, 2))))
