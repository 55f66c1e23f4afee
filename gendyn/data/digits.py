"""The handwritten digits that come with scikit-learn: a real data set that needs no download."""

from __future__ import annotations

import numpy as np

from gendyn.data.sources import Arrays, arrays

TEST_SIZE = 360


def digits(split: str = "train") -> Arrays:
    """1,797 handwritten digits of 8x8 pixels, [8, 8, 1] in [-1, 1], with labels 0..9: 1,437 train, 360 test.

    Pixels count the ink in 4x4 blocks, 0..16, and become x = ink / 8 - 1. The split is fixed for good: each
    class keeps its share (stratified, scikit-learn's `train_test_split` with random_state=0), order within
    a split is the order of the file. Source: E. Alpaydin and C. Kaynak, UCI "Optical Recognition of
    Handwritten Digits" (1998), its test part, as in `sklearn.datasets.load_digits`.

    >>> len(digits("train")), len(digits("test")), digits().shape, digits().num_classes
    (1437, 360, (8, 8, 1), 10)
    """
    from sklearn.datasets import load_digits

    file = load_digits()
    rows = _rows(split, file.target)
    ink = file.images[rows, :, :, None]
    return arrays(ink / 8.0 - 1.0, file.target[rows], num_classes=10)


def _rows(split: str, labels: np.ndarray) -> np.ndarray:
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(np.arange(len(labels)), test_size=TEST_SIZE, stratify=labels, random_state=0)
    rows = {"train": train, "test": test}
    if split not in rows:
        raise ValueError(f"digits has the splits 'train' and 'test', got {split!r}")
    return np.sort(rows[split])
