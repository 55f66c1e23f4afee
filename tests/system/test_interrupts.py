"""A run that is killed or asked to stop, anywhere, ends in the same bits as one that is left alone."""

import os
import random
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from gendyn.training import Checkpoints, read_metrics
from gendyn.tree import paths

pytestmark = pytest.mark.system
OPTIONS = ("--devices", 1, "--steps", 40, "--checkpoint-every", 3, "--log-every", 4, "--snapshot-every", 10)


def last_step(folder):
    """Newest step on disk, whatever state the folder is in."""
    found = (folder / "checkpoints").glob("*") if (folder / "checkpoints").exists() else []
    return max((int(path.name) for path in found if path.name.isdigit()), default=0)


def wait_for(folder, process, step, seconds=120):
    """Until a checkpoint at or after `step` is on disk."""
    until = time.monotonic() + seconds
    while last_step(folder) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


def leaves(folder, step=40):
    """Every leaf of the state stored at a step: parameters, averages, moments, step and key."""
    items = Checkpoints(folder / "checkpoints", read_only=True).manager.restore(step)
    words = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return {name: np.array(words(x)) for name, x in paths({k: items[k] for k in ("params", "ema", "rest")})}


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("uninterrupted") / "run", *OPTIONS)


def assert_same_run(folder, uninterrupted):
    """The same state, and every interval logged exactly once."""
    wanted, found = leaves(uninterrupted), leaves(folder)
    assert found.keys() == wanted.keys()
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)
    steps = [row["step"] for row in read_metrics(folder)]
    assert steps == sorted(set(steps))
    assert {row["step"] for row in read_metrics(uninterrupted)} <= set(steps)


@pytest.mark.slow
def test_killed_twice_and_continued(launch, train, uninterrupted, tmp_path):
    """kill -9 at random moments: while stepping, saving or logging."""
    moment = random.Random(time.time_ns())
    for after in (3, 18):
        process = launch(tmp_path, *OPTIONS)
        wait_for(tmp_path, process, after)
        time.sleep(moment.uniform(0.0, 0.5))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert 18 <= last_step(tmp_path) < 40
    train(tmp_path, *OPTIONS)
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.parametrize("which", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signal_writes_a_checkpoint_and_exits_cleanly(launch, train, uninterrupted, tmp_path, which):
    process = launch(tmp_path, *OPTIONS)
    wait_for(tmp_path, process, 3)
    process.send_signal(which)
    out, err = process.communicate(timeout=60)
    step = last_step(tmp_path)
    assert process.returncode == 0
    assert f"{which.name}: checkpoint written at step {step} in {tmp_path}; the same command continues." in out
    assert "Traceback" not in err
    assert 3 <= step < 40
    train(tmp_path, *OPTIONS)
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_ends_a_run_in_one_sentence_and_keeps_what_is_whole(launch, train, uninterrupted, tmp_path):
    """A disk of one megabyte; with room made, the run goes on and ends as one that was left alone."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        process = launch(disk / "run", *OPTIONS, "--keep-last", 30, pause="0")
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1
        [said] = [line for line in err.splitlines() if line.startswith("gendyn: ")]
        assert "is full: the checkpoint of step" in said
        assert "Traceback" not in err
        kept = last_step(disk / "run")
        assert kept > 0
        assert f"then continues from step {kept}" in said
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert gendyn_train(launch, disk / "run", "--keep-last", 30) == 0
        assert_same_run(disk / "run", uninterrupted)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def gendyn_train(launch, out, *argv):
    process = launch(out, *OPTIONS, *argv, pause="0")
    process.communicate(timeout=300)
    return process.returncode


@pytest.mark.slow
def test_killed_twenty_times_in_a_row(launch, train, uninterrupted, tmp_path):
    """Wherever each kill falls, the run that is continued after all of them ends in the same bits."""
    moment = random.Random(0)
    for _ in range(20):
        process = launch(tmp_path, *OPTIONS, pause="0.3")
        time.sleep(moment.uniform(4.0, 12.0))
        process.kill()
        process.communicate()
    assert last_step(tmp_path) < 40, "the kills came too late to say anything"
    train(tmp_path, *OPTIONS)
    assert_same_run(tmp_path, uninterrupted)
