"""The launching scripts: two local processes, a stand-in for SLURM, and the lines that the clouds would run."""

import os
import pathlib
import subprocess
import sys

import pytest

from gendyn.training import read_metrics

pytestmark = pytest.mark.system
SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
GENDYN = f"{sys.executable} -m gendyn"
RUN = ("--steps", "4", "--log-every", "2")


def bash(script, *argv, **environment):
    settings = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "GENDYN": GENDYN, "HOME": os.environ["HOME"]}
    command = ["bash", SCRIPTS / script, *map(str, argv)]
    return subprocess.run(command, env=os.environ | settings | environment, capture_output=True, text=True, timeout=240)


def test_local_processes_are_one_run(tiny, tmp_path):
    done = bash("local.sh", 2, "train", tiny, "--out", tmp_path / "run", *RUN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained 4 steps") == 1
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [2, 4]


@pytest.mark.slow
def test_slurm_tasks_are_one_run(tiny, tmp_path):
    """`srun` as SLURM does it on one node with two tasks: the same command with the variables that jax reads."""
    srun = tmp_path / "srun"
    srun.write_text(
        '#!/usr/bin/env bash\nshift\nfor i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & p+=($!); done\n'
        's=0; for each in "${p[@]}"; do wait "$each" || s=$?; done; exit $s\n'
    )
    srun.chmod(0o755)
    job = 1 + os.getpid() % 4000  # jax derives the port from it
    cluster = {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    done = bash(
        "slurm.sh", "train", tiny, "--out", tmp_path / "run", *RUN, PATH=f"{tmp_path}:{os.environ['PATH']}",
        JAX_NUM_CPU_DEVICES="2", SLURM_SUBMIT_DIR=str(SCRIPTS.parent), **cluster,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained 4 steps") == 1
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [2, 4]


def test_an_array_task_runs_its_own_line(tmp_path):
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("echo zero\necho 'one two'\n")
    done = bash("slurm_array.sh", jobs, SLURM_ARRAY_TASK_ID="1")
    assert done.stdout.splitlines()[-1] == "one two"
    refused = bash("slurm_array.sh", jobs, SLURM_ARRAY_TASK_ID="2")
    assert refused.returncode == 1
    assert "has no line 3" in refused.stderr


def test_the_clouds_lines_are_whole(tmp_path):
    """Printed, not run: no cloud is at hand. The words of gendyn's command survive two shells."""
    argv = ("train", "cifar10_edm", "--out", "gs://bucket/a run")
    pod = bash("tpu_pod.sh", *argv, NAME="pod", ZONE="zone", DRY="1").stdout
    assert pod.startswith("gcloud compute tpus tpu-vm ssh pod --zone zone --worker all --command ")
    gke = bash("xpk.sh", "name", *argv, CLUSTER="c", IMAGE="i", TYPE="v5litepod-16", DRY="1").stdout
    assert gke.startswith("xpk workload create --cluster c --workload name --tpu-type v5litepod-16 --num-slices 1 ")
    for line in (pod, gke):
        last = subprocess.run(
            ["bash", "-c", f"printf %s {line.split('--command ', 1)[1]}"], capture_output=True, text=True
        )
        assert "gendyn train cifar10_edm --out gs://bucket/a\\ run" in last.stdout


@pytest.mark.parametrize("platform", ["gpu", "tpu", "cpu"])
def test_flags_are_accepted(platform, tmp_path):
    """XLA ends a process that is given a flag it does not know; those of a TPU's library are not seen by it here."""
    code = "import jax, jax.numpy as jnp; print(float(jnp.ones(3).sum()))"
    line = f'source {SCRIPTS}/flags.sh {platform} && "{sys.executable}" -c "{code}"'
    home = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", line], env=home, capture_output=True, text=True)
    assert done.stdout.strip() == "3.0", done.stderr


def test_an_unknown_platform_is_said():
    done = subprocess.run(["bash", "-c", f"source {SCRIPTS}/flags.sh gqu"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "knows gpu, tpu and cpu; got gqu" in done.stderr
