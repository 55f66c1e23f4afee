"""The command line as people use it: in this process where that says enough, in one of its own where it does not."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import warnings

import pytest

from gendyn.cli import main

HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command left: exit status and what it printed."""

    status: int
    out: str
    err: str


def call(*argv):
    """Exit status of a command run in this process."""
    try:
        return main([str(a) for a in argv])
    except SystemExit as end:  # tyro's help and complaints
        return end.code


@pytest.fixture(scope="session")
def tiny():
    """The experiment file that most commands here are given."""
    return HERE / "tiny.py"


@pytest.fixture
def gendyn(capfd, monkeypatch):
    """`gendyn(...)` runs a command in this process and returns its Result."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command line replaces it

    def command(*argv):
        capfd.readouterr()
        status = call(*argv)
        return Result(status, *capfd.readouterr())

    return command


@pytest.fixture(scope="session")
def train(tiny):
    """`train(out, ...)` trains the tiny experiment in this process and returns `out`."""

    def run(out, *argv):
        assert call("train", tiny, "--out", out, *argv) == 0
        return out

    return run


@pytest.fixture(scope="session")
def trained(train, tmp_path_factory):
    """A finished run of the tiny experiment; to be read, not written into (copy it)."""
    return train(tmp_path_factory.mktemp("trained") / "run", "--snapshot-every", 5)


@pytest.fixture
def launch(tiny):
    """`launch(out, ...)` starts `gendyn train` as a process, slowed down so that it can be met in the middle."""
    started = []

    def start(out, *argv, pause="0.1"):
        command = [sys.executable, "-m", "gendyn", "train", tiny, "--out", out, *argv]
        environment = {**os.environ, "TINY_PAUSE": pause}
        started.append(
            subprocess.Popen(
                [str(a) for a in command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
