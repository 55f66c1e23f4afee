"""Samples by number: the same whatever the batch, the devices and how many are asked for."""

import numpy as np
import pytest

import gendyn as gd
from gendyn.training import class_labels, guided, plan_for, sample

PROCESS = gd.processes.EDM()
MIXTURE = gd.oracles.GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], [[0.1, 0.2], [0.3, 0.1]])


def drawn(num, **options):
    plan = gd.plan("ancestral", PROCESS, nfe=5)
    return sample(MIXTURE.denoiser(PROCESS), plan, (2,), num=num, **options)


def test_sample_i_depends_on_nothing_but_its_number_and_the_seed(one):
    """A stochastic sampler: prior and every noise belong to the sample, not to its batch."""
    x = drawn(20)
    assert x.dtype == np.float32
    for other in (drawn(20, batch_size=8), drawn(20, batch_size=7), drawn(20, mesh=one)):
        np.testing.assert_allclose(other, x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(drawn(9), x[:9], rtol=1e-5, atol=1e-5)
    assert np.abs(drawn(20, seed=1) - x).min(axis=0).max() > 1e-3
    assert len(np.unique(x[:, 0])) == 20


def test_repeated_call_gives_the_same_bits():
    np.testing.assert_array_equal(drawn(12), drawn(12))


def test_labels_reach_their_own_samples():
    """A denoiser that answers with its label: the deterministic sampler ends at it."""
    plan = gd.plan("ddim", PROCESS, nfe=3)
    denoiser = lambda x, t, cond: 0.0 * x + cond[:, None]
    labels = np.arange(20, dtype=np.float32)
    x = sample(denoiser, plan, (1,), num=20, labels=labels, batch_size=8)
    np.testing.assert_allclose(x[:, 0], labels, atol=1e-5)


def test_progress_is_reported_to_the_end():
    seen = []
    drawn(20, batch_size=8, report=seen.append)
    assert seen == [8, 16, 20]


def test_classes_come_in_turn():
    assert class_labels(5, 3).tolist() == [0, 1, 2, 0, 1]
    assert class_labels(3, 3, only=2).tolist() == [2, 2, 2]
    assert class_labels(3, None) is None


def test_impossible_classes_and_guidance_are_refused():
    with pytest.raises(ValueError, match=r"class must lie in 0\.\.2; got 3"):
        class_labels(4, 3, only=3)
    with pytest.raises(ValueError, match="model without classes"):
        class_labels(4, None, only=0)
    with pytest.raises(ValueError, match="needs a class-conditional model"):
        guided(MIXTURE.denoiser(PROCESS), 2.0, None)
    denoiser = MIXTURE.denoiser(PROCESS)
    assert guided(denoiser, 1.0, None) is denoiser


def test_plan_is_the_one_that_was_named():
    plan = plan_for(PROCESS, gd.training.Sampling(sampler="heun", nfe=6, grid="uniform_lam"))
    assert plan.nfe == 6
    with pytest.raises(ValueError, match="unknown sampler 'hein'"):
        plan_for(PROCESS, gd.training.Sampling(sampler="hein", nfe=5))
