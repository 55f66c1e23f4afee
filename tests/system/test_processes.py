"""Several real processes on one machine: the same run as in one, and what happens when one of them fails."""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from gendyn.data.loader import permutation
from gendyn.training import read_metrics
from tests.system.test_interrupts import last_step, leaves, wait_for

pytestmark = pytest.mark.system
STEPS, BATCH = 24, 16
OPTIONS = ("--steps", STEPS, "--checkpoint-every", 6, "--log-every", 1)


@pytest.fixture
def cluster(tiny):
    """`cluster(out, count, ...)` starts `gendyn train` in `count` processes that share four devices."""
    started = []

    def start(out, count, *argv, own=None, heartbeat=10, **environment):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        for index in range(count):
            numbers = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", count, "--process-id", index]
            command = [sys.executable, "-m", "gendyn", "train", tiny, "--out", out, *OPTIONS, *argv]
            command += [*numbers, "--heartbeat", heartbeat, "--start-timeout", 60] if count > 1 else []
            settings = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_NUM_CPU_DEVICES": str(4 // count)}
            settings |= environment | (own or {}).get(index, {})
            process = subprocess.Popen(
                [str(a) for a in command],
                env=os.environ | settings,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
        return started[-count:]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(processes, seconds=400):
    """[(status, stdout, stderr)] of processes, once all have ended."""
    outputs = [process.communicate(timeout=seconds) for process in processes]
    return [(process.returncode, *output) for process, output in zip(processes, outputs)]


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    """The run in one process, uninterrupted."""
    out = tmp_path_factory.mktemp("alone") / "run"
    command = [sys.executable, "-m", "gendyn", "train", tiny, "--out", out, *OPTIONS]
    settings = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_NUM_CPU_DEVICES": "4"}
    subprocess.run([str(a) for a in command], env=os.environ | settings, check=True, capture_output=True)
    return out


def assert_equal_runs(found, wanted):
    """Losses of every step and the final state agree to float32 reduction error."""
    losses = [{row["step"]: row["loss"] for row in read_metrics(folder)} for folder in (found, wanted)]
    steps = sorted(losses[0].keys() & losses[1].keys())
    assert steps == list(range(1, STEPS + 1))
    np.testing.assert_allclose([losses[0][s] for s in steps], [losses[1][s] for s in steps], rtol=1e-5)
    states = [leaves(folder, STEPS) for folder in (found, wanted)]
    assert states[0].keys() == states[1].keys()
    for name, leaf in states[1].items():
        np.testing.assert_allclose(states[0][name], leaf, rtol=1e-3, atol=1e-5, err_msg=name)


def test_two_processes_stop_die_and_go_on_as_one(cluster, alone, tmp_path):
    """SIGTERM reaches one of two: both stop at one step. One is killed: the other ends. One process goes on."""
    out = tmp_path / "run"
    processes = cluster(out, 2, "--mesh", "fsdp=2", TINY_PAUSE="0.2")
    wait_for(out, processes[0], 6, seconds=400)
    processes[1].send_signal(signal.SIGTERM)
    (status, said, _), (other, silent, err) = ended(processes)
    assert (status, other) == (0, 0), err
    assert "checkpoint" not in silent
    stopped = last_step(out)
    assert f"SIGTERM: checkpoint written at step {stopped} in {out}; the same command continues." in said

    processes = cluster(out, 2, "--mesh", "fsdp=4", TINY_PAUSE="0.2")
    wait_for(out, processes[0], stopped // 6 * 6 + 6, seconds=400)
    processes[1].kill()
    (status, _, err), _ = ended(processes)
    assert status != 0
    assert last_step(out) < STEPS, err

    (final,) = cluster(out, 1)
    status, _, err = ended([final])[0]
    assert status == 0, err
    assert "continuing from step" in err
    assert_equal_runs(out, alone)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data=4", "fsdp=4", "tensor=4", "fsdp=2,tensor=2", "data=2,tensor=2"])
def test_every_mesh_over_two_processes_is_the_run_of_one(cluster, alone, tmp_path, mesh):
    """Where tensor crosses processes, both hold the same rows of a batch."""
    ends = ended(cluster(tmp_path / "run", 2, "--mesh", mesh))
    assert [status for status, *_ in ends] == [0, 0], ends
    assert_equal_runs(tmp_path / "run", alone)


def test_data_that_one_process_cannot_read_ends_both(cluster, tmp_path):
    out = tmp_path / "run"
    example = permutation(512, 0, epoch=0)[8 * BATCH + BATCH // 2]  # the second half of batch 8
    broken = {1: {"TINY_UNREADABLE": str(example)}}
    (status, _, err), (other, _, reason) = ended(cluster(out, 2, own=broken, heartbeat=5))
    assert other == 1
    assert "gendyn: shard 3 of the data cannot be read" in reason
    assert status != 0, err
    assert last_step(out) == 6


def test_data_that_one_process_cannot_open_is_said_by_both(cluster, tmp_path):
    missing = {1: {"TINY_NO_DATA": "1"}}
    (status, _, err), (other, _, reason) = ended(cluster(tmp_path / "run", 2, own=missing))
    assert (status, other) == (1, 1)
    assert "gendyn: process 1 could not open the data (OSError: the training data was opened)" in err
    assert "gendyn: the training data was opened" in reason
    assert not (tmp_path / "run").exists()
