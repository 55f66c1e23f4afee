"""gendyn tune: a plan fitted to a run, and samples drawn with it."""

import json
import re
import shutil

import numpy as np
import pytest

from gendyn import samplers

pytestmark = pytest.mark.system

FEW = ("--num", 32, "--held-out", 32, "--iterations", 4, "--teacher-calls", 40)


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """A run of one's own, to write plans into."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("tuned") / "run")


def errors(out):
    """The printed lines: {"before": (median, q90, rmse), "after": ...}."""
    lines = re.findall(r"(before|after) +median (\S+)  q90 (\S+)  rmse (\S+)", out)
    return {name: tuple(map(float, values)) for name, *values in lines}


def test_tune_writes_a_better_plan_and_sample_uses_it(gendyn, run):
    result = gendyn("tune", run, "--sampler", "dpmpp_2m", "--nfe", 4, *FEW)
    assert result.status == 0, result.err
    before, after = (errors(result.out)[name] for name in ("before", "after"))
    assert after[0] < before[0]
    (path,) = (run / "plans").iterdir()
    assert path.name == "dpmpp_2m_nfe4_guidance1.npz"
    assert str(path) in result.out
    plan = samplers.load(path)
    assert (plan.nfe, plan.draws, plan.order, plan.name) == (4, 0, 0, "dpmpp_2m+tuned")
    assert json.loads(plan.info.notes)["step"] == 20
    drawn = gendyn("sample", run, "--plan", path, "--num", 6, "--out", run / "drawn")
    assert drawn.status == 0, drawn.err
    assert "dpmpp_2m+tuned, 4 network calls each" in drawn.out
    with np.load(run / "drawn" / "samples.npz") as found:
        assert found["samples"].shape == (6, 2)
    assert json.loads((run / "drawn" / "samples.json").read_text())["plan"] == str(path)


def test_guided_and_consistent_with_its_own_name(gendyn, run, tmp_path):
    out = tmp_path / "mine.npz"
    options = ("--sampler", "heun", "--nfe", 3, "--guidance", 2, "--consistent", "--out", out)
    result = gendyn("tune", run, *options, *FEW)
    assert result.status == 0, result.err
    plan = samplers.load(out)
    assert (plan.nfe, plan.order) == (3, 1)
    assert json.loads(plan.info.notes)["guidance"] == 2


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (("tune", "RUN", "--sampler", "ancestral", "--nfe", 4), ("draws noise", "deterministic")),
        (("tune", "RUN", "--sampler", "heun", "--nfe", 4), ("heun makes 4 network calls on no grid",)),
        (("sample", "RUN", "--plan", "no.npz"), ("no.npz does not exist",)),
        (("sample", "RUN", "--plan", "no.npz", "--nfe", 4), ("--plan already says", "--nfe")),
    ],
    ids=["stochastic", "calls", "missing", "both"],
)
def test_refusals(gendyn, trained, argv, parts):
    result = gendyn(*(trained if word == "RUN" else word for word in argv))
    assert result.status != 0
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err


def test_a_plan_of_another_process_is_refused(gendyn, trained, tmp_path):
    import gendyn as gd

    samplers.save(tmp_path / "plan.npz", gd.plan("ddim", gd.processes.VPLinear(), nfe=3))
    result = gendyn("sample", trained, "--plan", tmp_path / "plan.npz")
    assert result.status != 0
    assert "VPLinear" in result.err
    assert "EDM" in result.err
