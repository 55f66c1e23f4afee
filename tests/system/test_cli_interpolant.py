"""A run between two data sets, by the commands of every other run."""

import json
import pathlib

import numpy as np
import pytest

import gendyn as gd
from gendyn.tables import read_table

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


def test_the_way_back_starts_from_data_and_is_compared_with_the_base(gendyn, run, tmp_path):
    """Constant noise needs a margin; the untrained part of the model is small beside the 4.2 between the centres."""
    noise = ("--sampler", "interpolant_em", "--nfe", 20, "--diffusion", "constant=0.1", "--margin", 0.01)
    back = drawn(gendyn, run, tmp_path / "back", "--direction", "backward", *noise)
    data = gd.training.starts(gd.load(run).experiment, 16, "backward")
    assert np.linalg.norm(data.mean(0) - 3.0) < 0.2
    assert np.linalg.norm(back.mean(0)) < 0.5 * np.linalg.norm(data.mean(0))
    distances = {}
    for direction in ("forward", "backward"):
        assert gendyn("evaluate", run, "--num", 32, "--direction", direction).status == 0
        report = json.loads((run / "evaluation.json").read_text())["report"]
        distances[direction] = report["measures"]["frechet"]["value"]
    assert max(distances.values()) < 9.0  # squared distance of the centres: 18; each was compared with its own side


def test_a_study_measures_the_ode_and_the_sdes(gendyn, run, tmp_path):
    """The ODE's cells against a fine solution, whose error falls with calls; the SDEs' by their samples alone."""
    options = ("--samplers", "flow_heun", "interpolant_em", "--nfe", 4, 16, "--num", 32, "--fine-steps", 50)
    result = gendyn("study", run, *options, "--diffusion", "sine=0.5", "--out", tmp_path)
    assert result.status == 0, result.err
    rows = {(row["sampler"], row["nfe"], row["seed"]): row for row in read_table(tmp_path / "study")}
    assert len(rows) == 8
    assert all(row["frechet"] > 0 and row["diffusion"] == "sine=0.5" for row in rows.values())
    assert rows["flow_heun", 16, 0]["rmse"] < 0.5 * rows["flow_heun", 4, 0]["rmse"]
    assert rows["flow_heun", 16, 0]["rmse"] != rows["flow_heun", 16, 1]["rmse"]  # other starts
    assert not any("rmse" in row for (sampler, _, _), row in rows.items() if sampler == "interpolant_em")


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("sample", "--sampler", "ddim"), "choose one of flow_euler"),
        (("sample", "--guidance", 2), "two-sided interpolant, which is not guided"),
        (("sample", "--sampler", "interpolant_em", "--diffusion", "loud"), "one of constant, of_gamma, sine"),
        (("study", "--samplers", "ddim"), "no cell can be built; for example: ddim does not run on"),
        (("sample", "--sampler", "interpolant_em", "--diffusion", "constant=1"), "eps/gamma is not bounded at t = 0"),
        (("statistics",), "needs a model that starts from noise"),
        (("tune",), "needs a model that starts from noise"),
    ],
)
def test_what_has_no_meaning_is_refused(gendyn, run, argv, part):
    result = gendyn(argv[0], run, *argv[1:])
    assert result.status not in (0, None)
    assert result.err.startswith("gendyn: ")
    assert part in result.err
