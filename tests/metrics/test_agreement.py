import numpy as np
import pytest

from gendyn import metrics


def test_digits_classifier_is_a_fit_judge(digits):
    accuracy = digits.judge.accuracy
    assert accuracy.value >= 0.98
    assert (accuracy.n, accuracy.reference_n, accuracy.features) == (360, 1437, "RBF-SVM on pixels")


def test_agreement_of_real_digits_is_the_accuracy(digits):
    assert metrics.agreement(digits.judge, digits.test, digits.test_labels).value == digits.judge.accuracy.value


def test_agreement_falls_with_wrong_requests_and_with_noise(digits, rng):
    wrong = (digits.test_labels + 1) % 10
    assert metrics.agreement(digits.judge, digits.test, wrong).value < 0.02
    noise = rng.uniform(-1, 1, digits.test.shape)
    assert metrics.agreement(digits.judge, noise, digits.test_labels).value < 0.3


def test_half_wrong_requests_cost_half(digits):
    labels = digits.train_labels.copy()
    labels[::2] = (labels[::2] + 5) % 10
    right = metrics.agreement(digits.judge, digits.train[1::2], digits.train_labels[1::2]).value
    both = metrics.agreement(digits.judge, digits.train, labels).value
    assert both == pytest.approx(right / 2, abs=0.01)


def test_any_function_can_judge():
    sign = metrics.classifier("sign", lambda x: x[:, 0] > 0, np.array([[1.0], [2.0]]), np.array([1, 0]), train_n=0)
    assert sign.accuracy.value == 0.5


def test_every_sample_needs_a_request(digits):
    with pytest.raises(ValueError, match="3 examples and 2 labels"):
        metrics.agreement(digits.judge, digits.test[:3], digits.test_labels[:2])
