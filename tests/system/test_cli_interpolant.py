"""A run between two data sets, by the commands of every other run."""

import json
import pathlib

import numpy as np
import pytest

import gendyn as gd

pytestmark = pytest.mark.system
TINY = pathlib.Path(__file__).parent / "tiny_bridge.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from gendyn.cli import main

    folder = tmp_path_factory.mktemp("bridge") / "run"
    assert main(["train", str(TINY), "--out", str(folder), "--devices", "1"]) == 0
    return folder


def drawn(gendyn, run, out, *options):
    result = gendyn("sample", run, "--num", 16, "--out", out, *options)
    assert result.status == 0, result.err
    return np.load(out / "samples.npz")["samples"]


def test_samples_start_from_the_test_examples_base(gendyn, run, tmp_path):
    """The command is the library's own sampler on the base of the first test examples, in a fixed order."""
    model = gd.load(run)
    start = gd.training.starts(model.experiment, 16)
    np.testing.assert_array_equal(start, model.experiment.test().take(np.arange(16))["base"])
    plan = gd.plan("flow_heun", model.process, 8)
    wanted = gd.samplers.run(plan, model.denoiser, start)
    found = drawn(gendyn, run, tmp_path / "ode")
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert np.linalg.norm(found - start, axis=1).min() > 1.0  # it moves: the centres are 4.2 apart


def test_any_noise_is_one_option_and_a_seed_is_one_path(gendyn, run, tmp_path):
    options = ("--sampler", "interpolant_em", "--nfe", 10, "--diffusion")
    first, again, less = (
        drawn(gendyn, run, tmp_path / name, *options, noise)
        for name, noise in (("a", "of_gamma=1"), ("b", "of_gamma=1"), ("c", "sine=0.1"))
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - less).max() > 1e-2
    assert json.loads((tmp_path / "c" / "samples.json").read_text())["options"] == {"diffusion": "sine=0.1"}


def test_evaluation_compares_with_the_data_not_the_base(gendyn, run):
    result = gendyn("evaluate", run, "--num", 32)
    assert result.status == 0, result.err
    assert "frechet" in result.out


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("sample", "--sampler", "ddim"), "choose one of flow_euler"),
        (("sample", "--guidance", 2), "two-sided interpolant, which is not guided"),
        (("sample", "--sampler", "interpolant_em", "--diffusion", "loud"), "one of constant, of_gamma, sine"),
        (("study",), "needs a model that starts from noise"),
        (("statistics",), "needs a model that starts from noise"),
        (("tune",), "needs a model that starts from noise"),
    ],
)
def test_what_has_no_meaning_is_refused(gendyn, run, argv, part):
    result = gendyn(argv[0], run, *argv[1:])
    assert result.status not in (0, None)
    assert result.err.startswith("gendyn: ")
    assert part in result.err
