"""gendyn import and export, and every command that must accept what they make."""

import json

import numpy as np
import pytest

import gendyn as gd
from gendyn.importing import read

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def file(request):
    return request.getfixturevalue("shared") / "parity" / "edm_ddpmpp_open.npz"


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    from gendyn.cli import main

    out = tmp_path_factory.mktemp("imported") / "run"
    assert main(["import", str(file), "--out", str(out), "--sigma-max", "40"]) == 0
    return out


@pytest.mark.slow
def test_an_imported_run_is_sampled_studied_measured_and_exported(run, file, gendyn, tmp_path):
    """One chain, since each command compiles the network once more. Statistics say whose samples they measured."""
    sampled = gendyn("sample", run, "--num", 4, "--nfe", 3, "--batch", 4)
    assert sampled.status == 0, sampled.err
    with np.load(run / "samples" / "heun_nfe3_guidance1_seed0" / "samples.npz") as found:
        assert found["samples"].shape == (4, 16, 16, 3)
    measured = gendyn("statistics", run, "--num-samples", 4, "--times", 3, "--batch", 4)
    assert measured.status == 0, measured.err
    assert "no data" in measured.err
    described = gendyn("info", run, "--parameters")
    assert "spatial spatial data embed" in described.out
    assert "edm_ddpmpp_open.npz" in described.out
    exported = gendyn("export", run, "--out", tmp_path / "out.safetensors")
    assert exported.status == 0, exported.err
    theirs = read(file).tensors
    ours = read(tmp_path / "out.safetensors").tensors
    assert theirs.keys() == ours.keys()
    assert all((theirs[name] == ours[name]).all() for name in theirs)


def test_the_range_of_sampling_can_be_chosen(run):
    assert gd.load(run).process == gd.processes.EDM(sigma_max=40.0)
    assert json.loads((run / "config.json").read_text())["config"]["sigma_max"] == 40.0


@pytest.mark.slow
def test_a_study_of_an_imported_run(run, gendyn):
    study = gendyn("study", run, "--samplers", "ddim", "--nfe", 2, "--num", 2, "--fine-steps", 4)
    assert study.status == 0, study.err
    assert (run / "study.csv").exists() or list(run.glob("study*"))


def test_refusals_are_one_sentence(run, gendyn, tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    refused = gendyn("import", tmp_path / "a.pkl", "--out", tmp_path / "run")
    assert (refused.status, refused.err.count("\n")) == (1, 1)
    assert "posix.system" in refused.err
    assert not (tmp_path / "run").exists()
    evaluated = gendyn("evaluate", run)
    assert (evaluated.status, evaluated.err.count("\n")) == (1, 1)
    assert "no test data" in evaluated.err


def test_export_of_another_network_is_refused(trained, gendyn, tmp_path):
    refused = gendyn("export", trained, "--out", tmp_path / "a.safetensors")
    assert refused.status == 1
    assert "EDMUNet and DiT only, got MLP" in refused.err
