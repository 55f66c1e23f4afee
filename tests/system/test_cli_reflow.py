"""gendyn reflow: pairs, rounds and distillation, each an ordinary run; stopped anywhere, it ends in the same bits."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import gendyn as gd
from gendyn.training import Checkpoints
from gendyn.tree import paths

pytestmark = pytest.mark.system
FLOW = pathlib.Path(__file__).parent / "tiny_flow.py"
QUICK = ("--pairs", 2500, "--nfe", 6, "--measured", 32, "--devices", 1)
module = sys.modules["gendyn.training.reflow"]  # the room's `reflow` is the function


def arguments(run, out, *argv):
    return [str(a) for a in ("reflow", run, "--out", out, *QUICK, *argv)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained tiny flow; to be read, not written into."""
    out = tmp_path_factory.mktemp("flow") / "run"
    assert gd_main(["train", str(FLOW), "--out", str(out), "--devices", "1"]) == 0
    return out


def gd_main(argv):
    from gendyn.cli import main

    return main(argv)


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    """One round and a one-step distillation of it, without interruption; to be read."""
    out = tmp_path_factory.mktemp("reflow") / "out"
    assert gd_main(arguments(run, out, "--rounds", 1, "--distill", 1)) == 0
    return out


def pairs_of(out, number=0):
    files = sorted((out / f"pairs{number}").glob("*.npz"))
    return [{name: file[name] for name in file.files} for file in map(np.load, files)]


def leaves(folder):
    """Every leaf of the newest state: parameters, averages, moments, step and key."""
    store = Checkpoints(folder / "checkpoints", read_only=True)
    items = store.manager.restore(store.steps()[-1])
    words = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return {name: np.array(words(x)) for name, x in paths({k: items[k] for k in ("params", "ema", "rest")})}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


def assert_same_reflow(out, done):
    for number in (0, 1):
        found, wanted = pairs_of(out, number), pairs_of(done, number)
        assert len(found) == len(wanted) == 3
        for each in zip(found, wanted, strict=True):
            assert_same(*each)
    for stage in ("round1", "round1_distilled1"):
        assert_same(leaves(out / stage), leaves(done / stage))
        assert (out / stage / "straightness.json").read_text() == (done / stage / "straightness.json").read_text()


# ---- what is made


def test_pairs_are_noise_and_its_own_sample_with_classes_in_turn(run, done):
    """The sampler's plan run on the stored noise gives the stored samples; noise is N(0, I) (|mean| < 6 errors)."""
    stored = {name: np.concatenate([part[name] for part in pairs_of(done)]) for name in ("base", "data", "label")}
    assert stored["base"].shape == stored["data"].shape == (2500, 2)
    np.testing.assert_array_equal(stored["label"], np.arange(2500) % 3)
    assert np.abs(stored["base"].mean(0)).max() < 6 / np.sqrt(2500)
    assert np.abs(stored["base"].std(0) - 1).max() < 6 / np.sqrt(5000)
    model = gd.load(run)
    plan = gd.plan("unipc_2", model.process, nfe=6, grid="uniform_t")
    x = gd.samplers.run(plan, model.denoiser, stored["base"][:64], cond=stored["label"][:64])
    np.testing.assert_allclose(x, stored["data"][:64], rtol=1e-4, atol=1e-4)


def test_a_round_starts_from_the_averaged_weights_and_trains_on_the_pairs(run, done):
    stored = json.loads((done / "round1" / "config.json").read_text())
    assert stored["round"] == {"start": str(run), "pairs": "pairs0", "noise_levels": None, "nodes": None}
    objective = gd.load(done / "round1").experiment.objective
    assert objective.coupling == gd.processes.couplings.Stored()
    again = gd.load(done / "round1_distilled1").experiment
    assert again.objective.noise_levels == gd.objectives.noise_levels.Nodes(k=1)
    assert (again.sampling.nfe, again.sampling.guidance, again.transforms) == (1, 1.0, ())


def test_the_table_says_straightness_costs_errors_and_the_bound(gendyn, run, done):
    """Nothing is left to do: the same command prints the table from the files."""
    before = leaves(done / "round1")
    result = gendyn(*arguments(run, done, "--rounds", 1, "--distill", 1))
    assert result.status == 0, result.err
    row = json.loads((done / "round1" / "straightness.json").read_text())
    first = json.loads((done / "round0.json").read_text())
    assert f"{row['straightness']:.4g}" in result.out
    assert re.search(r"straightest of 2: \S+ <= \S+, the cost of independent pairs over 2: holds", result.out)
    assert row["straightness"] < first["straightness"]
    assert row["bound"] == pytest.approx(first["bound"] / 2)
    assert {"squared", "euclidean", "absolute", "rmse"} <= row.keys()
    assert_same(leaves(done / "round1"), before)


def test_rounds_are_ordinary_runs(gendyn, done, tmp_path):
    folder = shutil.copytree(done, tmp_path / "copy")
    assert "euler, 1 network calls" in gendyn("sample", folder / "round1_distilled1", "--num", 4).out
    for command in (("sample", folder / "round1", "--num", 4), ("evaluate", folder / "round1", "--num", 32)):
        result = gendyn(*command)
        assert result.status == 0, result.err
    result = gendyn("info", folder / "round1_distilled1")
    assert "round       start round1, pairs pairs1, nodes 1" in result.out
    quick = ("--samplers", "euler", "--grids", "uniform_t", "--nfe", 2, "--num", 16)
    assert gendyn("study", folder / "round1", *quick).status == 0


@pytest.mark.slow
def test_more_rounds_may_be_asked_for_later(gendyn, run, done, tmp_path):
    """A distillation in two steps on top of what exists: nothing is made twice."""
    folder = shutil.copytree(done, tmp_path / "more")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
    result = gendyn(*arguments(run, folder, "--rounds", 1, "--distill", 2))
    assert result.status == 0, result.err
    assert gd.load(folder / "round1_distilled2").experiment.sampling.nfe == 2
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")} == before


# ---- stopped anywhere


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def dying(function, after):
    """The function, which kills its caller instead of working for the `after`-th time."""
    calls = iter(range(1, 10**6))

    def call(*args, **kwargs):
        if next(calls) == after:
            raise Killed
        return function(*args, **kwargs)

    return call


@pytest.mark.slow
def test_killed_at_every_stage_it_ends_in_the_same_bits(run, done, tmp_path, monkeypatch):
    """Among the pairs, while training, before a measurement, between the stages: then once to the end."""
    pairs = sys.modules["gendyn.training.stored_pairs"]
    out, argv = tmp_path / "out", ("--rounds", 1, "--distill", 1)
    deaths = [
        (pairs, "write_npz", 2),  # pairs0: one shard of three is there
        (Checkpoints, "save", 2),  # round1: one checkpoint is there
        (module, "write_json", 2),  # round1 trained, its row not written (the first is reflow.json)
        (pairs, "write_npz", 1),  # between round 1 and the pairs of the distillation
    ]
    for place, name, after in deaths:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, dying(getattr(place, name), after))
            with pytest.raises(Killed):
                gd_main(arguments(run, out, *argv))
    assert len(pairs_of(out, 0)) == 3
    assert not (out / "pairs1").exists()
    assert gd_main(arguments(run, out, *argv)) == 0
    assert_same_reflow(out, done)


@pytest.mark.slow
def test_python_stops_and_goes_on(run, done, tmp_path, monkeypatch):
    """`gd.training.reflow` returns the interrupted outcome; asked again, it ends like the command."""
    asked = gd.training.Reflow(pairs=2500, nfe=6, measured=32)
    mesh = gd.distributed.data_mesh(jax.devices()[:1])
    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", lambda *args, **kwargs: gd.training.fit(*args, **kwargs, stop_at=12))
        rows, last = gd.training.reflow(run, tmp_path, asked, mesh=mesh)
    assert ([row["stage"] for row in rows], last.step, last.finished) == (["round0"], 12, False)
    rows, last = gd.training.reflow(run, tmp_path, asked, mesh=mesh)
    assert last is None
    assert [row["stage"] for row in rows] == ["round0", "round1"]
    assert_same(leaves(tmp_path / "round1"), leaves(done / "round1"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_killed_while_training(run, done, tmp_path, number):
    command = [sys.executable, "-m", "gendyn", *arguments(run, tmp_path, "--rounds", 1, "--distill", 1)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (tmp_path / "round1" / "checkpoints" / "9").exists() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert gd_main(arguments(run, tmp_path, "--rounds", 1, "--distill", 1)) == 0
    assert_same_reflow(tmp_path, done)


# ---- what is refused


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (("--rounds", 0), ("rounds must be at least 1, or 0 with distill",)),
        (("--rounds", -1), ("rounds must be at least 1",)),
        (("--pairs", 15), ("at least one batch of pairs, 16; got 15",)),
        (("--sampler", "ancestral"), ("ancestral draws noise", "euler or heun")),
        (("--sampler", "eulr"), ("unknown sampler 'eulr'",)),
        (("--grid", "karras"), ("starts at t = 0.0123", "use uniform_t")),
        (("--noise-levels", "ushaped"), ("unknown noise levels 'ushaped'", "u_shaped")),
        (("--measured", 0), ("measured must be at least 1",)),
        (("--config.width", 8), ("initial parameters are of another network",)),
    ],
    ids=lambda value: " ".join(map(str, value)) if str(value[0]).startswith("--") else "",
)
def test_what_cannot_be_done_is_refused(gendyn, run, tmp_path, argv, parts):
    small = ("--pairs", 16) if "--pairs" not in argv else ()
    result = gendyn(*arguments(run, tmp_path / "out", *small, *argv))
    assert result.status != 0
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err, result.err
    assert not (tmp_path / "out").exists()


def test_a_process_without_pure_noise_is_refused(gendyn, trained, tmp_path):
    result = gendyn("reflow", trained, "--out", tmp_path / "out")
    assert result.status == 1
    assert "needs a path on the unit clock from pure noise" in result.err
    assert "RectifiedFlow()" in result.err
    assert "EDM" in result.err


def test_another_question_and_another_directory_are_refused(gendyn, run, done, tmp_path):
    result = gendyn(*arguments(run, done, "--nfe", 7, "--config.steps", 30))
    assert result.status == 1
    for part in ("was asked for otherwise", "nfe: 6 -> 7", "config.steps: 20 -> 30", "choose another directory"):
        assert part in result.err
    (tmp_path / "thesis.tex").write_text("precious")
    assert "holds no reflow" in gendyn(*arguments(run, tmp_path)).err
    assert "is a file" in gendyn(*arguments(run, tmp_path / "thesis.tex")).err
    assert "needs a run directory" in gendyn("reflow").err


def test_a_round_is_not_continued_on_the_original_data_by_accident(gendyn, done):
    result = gendyn("train", FLOW, "--out", done / "round1")
    assert result.status == 1
    assert "round.pairs: 'pairs0' -> (absent)" in result.err
