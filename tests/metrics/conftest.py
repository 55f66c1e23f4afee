"""Real digits as arrays, straight from scikit-learn: the metrics are tested without the data room."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from gendyn import metrics


@pytest.fixture(scope="session")
def digits():
    file = load_digits()
    images = (file.images / 8.0 - 1.0)[..., None].astype(np.float32)
    train, test, train_labels, test_labels = train_test_split(
        images, file.target, test_size=360, random_state=0, stratify=file.target
    )
    judge = metrics.digits_classifier(train, train_labels, test, test_labels)
    return SimpleNamespace(train=train, test=test, train_labels=train_labels, test_labels=test_labels, judge=judge)
