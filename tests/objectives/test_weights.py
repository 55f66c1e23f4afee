"""Weights: stated on the denoised, the same for every predicted kind."""

import numpy as np
import pytest

from gendyn import predictions
from gendyn.objectives import WEIGHTS, weights
from gendyn.predictions import ROWS, EDMPreconditioner, determinant
from gendyn.processes import PROCESSES


@pytest.fixture(params=sorted(PROCESSES))
def process(request):
    return PROCESSES[request.param]()


def times_of(process):
    return process.t_of_lam(np.linspace(-2.5, 3.0, 12))


def kinds_of(process):
    """What a network can predict of the process; the score belongs to Gaussian noise."""
    return [kind for kind in (*ROWS, "F") if kind != "score" or process.gaussian_noise]


def det(kind, process, t):
    return determinant(predictions.row(kind, EDMPreconditioner(), process, t), process.alpha(t), process.sigma(t))


@pytest.mark.parametrize("name", sorted(set(WEIGHTS) - {"uniform"}))
def test_weights_count_the_same_error_alike_in_every_kind(name, process):
    """weight x (squared error of the kind) does not depend on the kind, as that error is (det/sigma)^2 x denoised's."""
    t, weight = times_of(process), WEIGHTS[name]()
    reference = weight(process, t, det("denoised", process, t))
    assert (reference > 0).all()
    for kind in kinds_of(process):
        d = det(kind, process, t)
        np.testing.assert_allclose(weight(process, t, d) * (d / process.sigma(t)) ** 2, reference, rtol=1e-11)


def test_unit_weights_of_the_literature(process):
    t = times_of(process)
    one = np.ones_like(t)
    np.testing.assert_allclose(weights.EDM()(process, t, det("F", process, t)), one, rtol=1e-12)
    np.testing.assert_allclose(weights.SNR()(process, t, det("eps", process, t)), one, rtol=1e-12)
    for kind in set(kinds_of(process)) - {"F"}:
        np.testing.assert_array_equal(weights.Uniform()(process, t, det(kind, process, t)), one)
        ours = weights.Uniform(kind=kind)(process, t, det(kind, process, t))
        np.testing.assert_allclose(ours, one, rtol=1e-12)


def test_uniform_in_a_kind_is_that_kinds_own_loss(process):
    t = times_of(process)
    ours = weights.Uniform(kind="velocity")(process, t, det("denoised", process, t))
    np.testing.assert_allclose(ours, (det("velocity", process, t) / process.sigma(t)) ** 2, rtol=1e-12)


@pytest.mark.parametrize("bias", [-1.0, 0.0, 2.0])
def test_sigmoid_is_soft_min_snr(bias):
    snr = np.exp(np.linspace(-8, 8, 30))
    soft = weights.SoftMinSNR(gamma=float(np.exp(bias))).of_snr(snr)
    np.testing.assert_allclose(weights.Sigmoid(bias=bias).of_snr(snr), soft, rtol=1e-12)
    np.testing.assert_allclose(
        weights.Sigmoid(bias=bias).of_snr(snr), snr / (1 + np.exp(np.log(snr) - bias)), rtol=1e-12
    )


def test_soft_minimum_lies_below_the_minimum_and_meets_it_far_away():
    snr = np.exp(np.linspace(-8, 8, 31))
    soft, hard = weights.SoftMinSNR(gamma=5.0).of_snr(snr), weights.MinSNR(gamma=5.0).of_snr(snr)
    assert (soft < hard).all()
    np.testing.assert_allclose(soft[[0, -1]], hard[[0, -1]], rtol=2e-3)
    assert hard.max() == 5.0
