"""gendyn statistics: computes, saves with what the tables belong to, is found by `gendyn sample`, and checks itself."""

import re
import shutil

import jax
import numpy as np
import pytest

import gendyn as gd
from gendyn.samplers.statistics import Statistics, estimate

pytestmark = pytest.mark.system
QUICK = ("--num-samples", 64, "--times", 12)


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    return shutil.copytree(trained, tmp_path_factory.mktemp("statistics") / "run")


def tables(run):
    return sorted((run / "statistics").glob("*.npz"))


def test_sample_says_which_command_to_run_and_then_finds_the_tables(run, gendyn):
    argv = ("sample", run, "--sampler", "dpm_solver_v3", "--nfe", 6, "--num", 8, "--guidance", 1.5)
    refused = gendyn(*argv)
    assert refused.status == 1
    command = re.search(r"`gendyn (statistics .*)`", refused.err)[1].split()
    made = gendyn(*command, *QUICK)
    assert made.status == 0, made.err
    assert "832 network calls" in made.out
    assert "half against half: l" in made.out
    assert gendyn(*argv).status == 0
    with np.load(run / "samples" / "dpm_solver_v3_nfe6_guidance1.5_seed0" / "samples.npz") as found:
        assert np.isfinite(found["samples"]).all()


def test_tables_say_what_they_belong_to(run, gendyn):
    """And belong to it: they are what `estimate` measures on the guided model."""
    assert gendyn("statistics", run, *QUICK, "--guidance", 2.0, "--ema", 0.1).status == 0
    path = next(p for p in tables(run) if "0.1" in p.name and p.name.endswith("guidance2.npz"))
    found, model = Statistics.load(path), gd.load(run, ema=0.1)
    assert (found.process, found.origin.step, found.origin.weights) == (model.process, model.step, model.weights)
    assert (found.origin.guidance, found.origin.num_samples, found.origin.model) == (2.0, 64, str(run))
    experiment = model.experiment
    batch = gd.data.loader.Batches(source=experiment.source(), batch_size=64, seed=0)[0]
    D = gd.control.cfg(model.denoiser, 2.0, null=model.num_classes)
    key = jax.random.key(0)
    again = estimate(model.process, D, batch["data"], key, num_times=12, cond=batch["label"])
    np.testing.assert_allclose(found.l, again.l, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.s, again.s, rtol=0.02, atol=0.02)


def test_other_guidance_is_another_model(run, gendyn):
    result = gendyn("sample", run, "--sampler", "dpm_solver_v3", "--guidance", 7.0)
    assert result.status == 1
    assert "guidance 7" in result.err


def test_check_reports_the_noise_and_warns(run, gendyn):
    """Four pairs are not enough, and it says about how many are."""
    result = gendyn("statistics", run, "--num-samples", 4, "--times", 12, "--check")
    assert result.status == 0, result.err
    assert "5 network calls: noise of the tables" in result.out
    assert "too few" in result.err
    assert int(re.search(r"--num-samples (\d+)", result.err)[1]) > 4


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--num-samples", 2), "at least 4"),
        (("--probes", 0), "probes"),
        (("--memory", 1e-9, "--batch", 1), "memory="),
        (("--step", 3), "no checkpoint at step 3"),
    ],
)
def test_bad_input_is_one_sentence(run, gendyn, argv, said):
    before = tables(run)
    result = gendyn("statistics", run, *argv)
    assert result.status == 1
    assert said in result.err
    assert "Traceback" not in result.err
    assert tables(run) == before
