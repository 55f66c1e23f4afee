"""gendyn checkpoint: what is listed, found damaged, deleted and written."""

import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import gendyn as gd
from gendyn.training import Checkpoints
from gendyn.tree import paths
from tests.system.test_cli import refused

pytestmark = pytest.mark.system


@pytest.fixture
def run(trained, tmp_path):
    """A finished run that may be written into: checkpoints 9, 18, 20 and snapshots 5, 10, 15, 20."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def kept(run, name="checkpoints"):
    return Checkpoints(run / name, read_only=True).steps()


def damage(run, step):
    """Cut the largest file of the parameters short."""
    files = sorted(
        (run / "checkpoints" / str(step) / "params").rglob("*"), key=lambda p: p.stat().st_size * p.is_file()
    )
    files[-1].write_bytes(files[-1].read_bytes()[:7])


def test_a_list_names_every_step_and_what_was_set_aside(gendyn, run):
    (run / "checkpoints" / "unreadable" / "3").mkdir(parents=True)
    result = gendyn("checkpoint", "ls", run)
    assert result.status == 0, result.err
    assert "3 checkpoints" in result.out
    assert "4 snapshots of averages" in result.out
    assert "step        18" in result.out
    assert "set aside as unreadable" in result.out


def test_verify_reads_everything_and_names_what_is_damaged(gendyn, run):
    assert gendyn("checkpoint", "verify", run).out.count("whole and finite") == 7
    damage(run, 20)
    result = gendyn("checkpoint", "verify", run)
    assert result.status == 1
    assert "checkpoints/20: params" in result.out
    assert "1 of 7 are damaged" in result.err
    refused(gendyn("checkpoint", "verify", run, "--step", 7), "has no checkpoint at step 7")


def test_prune_keeps_what_it_says_and_never_the_last_whole_one_less(gendyn, run):
    result = gendyn("checkpoint", "prune", run, "--keep", 2, "--dry-run")
    assert "would delete" in result.out
    assert kept(run) == [9, 18, 20]
    damage(run, 20)
    assert gendyn("checkpoint", "prune", run, "--keep", 1).status == 0
    assert kept(run) == [18, 20]
    assert kept(run, "ema") == [5, 10, 15, 20]
    assert gendyn("checkpoint", "prune", run, "--snapshots").status == 0
    assert kept(run, "ema") == []
    refused(gendyn("checkpoint", "prune", run, "--keep", 0), "--keep and --keep-every must be at least 1")


def test_convert_writes_the_weights_that_load_reads(gendyn, run, tmp_path):
    for name, read in (("w.safetensors", load_file), ("w.npz", lambda path: dict(np.load(path)))):
        result = gendyn("checkpoint", "convert", run, "--out", tmp_path / name, "--ema", 0, "--step", 18)
        assert result.status == 0, result.err
        found = read(tmp_path / name)
        wanted = dict(paths(jax.device_get(gd.load(run, ema=0, step=18).denoiser.params)))
        assert found.keys() == wanted.keys()
        for path, leaf in wanted.items():
            np.testing.assert_array_equal(found[path], leaf)
    refused(gendyn("checkpoint", "convert", run, "--out", tmp_path / "w.bin"), "must end in .safetensors or .npz")


def test_wrong_words_are_said(gendyn, tmp_path):
    refused(gendyn("checkpoint", "verfiy", tmp_path), "did you mean verify?")
    refused(gendyn("checkpoint", "ls", tmp_path), "is not a run directory")
    refused(gendyn("checkpoint"), "needs one of ls, verify, prune, convert")
