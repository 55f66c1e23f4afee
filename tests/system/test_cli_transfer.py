"""gendyn transfer: a table, a figure, a winner that `gendyn train` takes; resumes; one sentence for bad input."""

import json
import shlex

import pytest

import gendyn as gd
from gendyn.tables import read_table
from gendyn.training import load_config_class
from gendyn.training.trials import fixed_score
from tests.system.test_cli import refused

pytestmark = pytest.mark.system
SMALL = ("--depth", 1, "--base-depth", 1, "--base-width", 8, "--batch-size", 16, "--steps", 8)
RATES = ("--sweep", "learning_rate=2^-6..2^-4", "--repeats", 2)
SWEEP = ("--over", "width=8,16", *RATES)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    from tests.system.conftest import call

    folder = tmp_path_factory.mktemp("transfer") / "out"
    assert call("transfer", "transfer_mlp", *SMALL, *SWEEP, "--out", folder) == 0
    return folder


def test_a_sweep_leaves_its_table_figure_and_winner(swept):
    rows = read_table(swept / "transfer")
    assert {(r["width"], r["learning_rate"], r["seed"]) for r in rows} == {
        (w, 2.0**-p, s) for w in (8, 16) for p in (6, 5, 4) for s in (0, 1)
    }
    assert (swept / "learning_rate.png").stat().st_size > 5000
    found = json.loads((swept / "transfer.json").read_text())
    at_base = [r for r in rows if r["width"] == 8]
    scores = dict.fromkeys((2 ** (-6), 2 ** (-5), 2 ** (-4)), 1.0)
    for row in at_base:
        scores[row["learning_rate"]] *= row["score"]
    assert found["winner"]["learning_rate"] == min(scores, key=scores.get)
    assert found["experiment"] == "transfer_mlp"


def test_a_swept_run_is_the_one_that_train_makes(swept):
    """The same batches, noise, parameters and steps: `gendyn.training.build` ends in the same score."""
    from gendyn.cli.common import find_experiment

    cls = load_config_class(find_experiment("transfer_mlp"))
    config = cls(width=16, depth=1, base_width=8, base_depth=1, batch_size=16, steps=8, learning_rate=2.0**-5, seed=1)
    experiment = config.experiment()
    state, step, batches = gd.training.build(experiment)
    for _, batch in zip(range(8), batches):
        state, _ = step(state, batch)
    score = fixed_score(experiment)(experiment.network, state.params)
    [row] = [
        r for r in read_table(swept / "transfer") if (r["width"], r["learning_rate"], r["seed"]) == (16, 2.0**-5, 1)
    ]
    for name in ("score", "level1", "level4"):
        assert row[name] == pytest.approx(float(score[name]), rel=1e-5)


def test_jobs_that_know_nothing_of_each_other_make_the_same_sweep(gendyn, swept, tmp_path):
    """A list of two commands, each run, then merged by the command itself: the rows of the sweep in one go."""
    command = ("transfer", "transfer_mlp", *SMALL, "--over", "width=8", *RATES, "--out", tmp_path / "out")
    result = gendyn(*command, "--jobs", 2)
    assert result.status == 0, result.err
    assert f"sbatch --array=0-1 scripts/slurm_array.sh {tmp_path}/out/jobs.txt" in result.out
    jobs = (tmp_path / "out" / "jobs.txt").read_text().splitlines()
    assert len(jobs) == 2
    for i, job in enumerate(jobs):
        result = gendyn(*shlex.split(job)[1:])
        assert f"part-0000{i}-of-00002: 1 of 2 sizes and seeds" in result.out, result.err
    assert gendyn(*command).status == 0
    merged, wanted = (
        {(r["learning_rate"], r["seed"]): r["score"] for r in read_table(folder / "transfer") if r["width"] == 8}
        for folder in (tmp_path / "out", swept)
    )
    assert merged == pytest.approx(wanted, rel=1e-5)
    assert len(read_table(tmp_path / "out" / "transfer")) == len(wanted)
    refused(gendyn(*command, "--part", "2/2"), "--part is written i/n")
    refused(gendyn(*command, "--part", "0/2", "--jobs", 2), "--jobs is a number of commands, and goes without --part")


def test_the_same_command_again_runs_only_what_is_missing(gendyn, swept, tmp_path):
    before = read_table(swept / "transfer")
    more = ("--over", "width=8,16", "--sweep", "learning_rate=2^-6..2^-3", "--repeats", 2)
    assert gendyn("transfer", "transfer_mlp", *SMALL, *more, "--out", swept).status == 0
    after = read_table(swept / "transfer")
    assert after[: len(before)] == before
    assert {r["learning_rate"] for r in after[len(before) :]} == {2.0**-3}
    refused(gendyn("transfer", "transfer_mlp", *SMALL[:-1], 9, *SWEEP, "--out", swept), "steps: 8 -> 9")
    assert read_table(swept / "transfer") == after


def test_train_takes_the_winner(gendyn, swept, tmp_path):
    winner = json.loads((swept / "transfer.json").read_text())["winner"]["learning_rate"]
    result = gendyn("train", "transfer_mlp", *SMALL, "--width", 32, "--from-transfer", swept, "--out", tmp_path / "run")
    assert result.status == 0
    assert "tuned with other settings" not in result.err
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert stored["learning_rate"] == winner
    assert stored["width"] == 32
    twice = gendyn(
        "train", "transfer_mlp", *SMALL, "--from-transfer", swept, "--learning-rate", 0.1, "--out", tmp_path / "b"
    )
    assert "leave out one of the two" in twice.err
    other = gendyn(
        "train", "transfer_mlp", *SMALL, "--rule", "sp", "--from-transfer", swept, "--dry-run", "--out", tmp_path / "b"
    )
    assert "rule 'mup' there, 'sp' here" in other.err
    assert not (tmp_path / "b").exists()
    # the checkpoint knows its table: neither training on nor loading happens under another one
    run = ("--width", 32, "--learning-rate", winner, "--base-width", 16, "--steps", 9, "--out", tmp_path / "run")
    changed = gendyn("train", "transfer_mlp", *SMALL, *run, "--override")
    assert "another table, base {'width': 8, 'depth': 1} and {'width': 16, 'depth': 1} here" in changed.err
    stored["base_width"] = 16
    described = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**described, "config": stored}))
    assert "was trained under another table" in gendyn("sample", tmp_path / "run").err


def test_any_experiment_is_scored_on_its_held_out_loss(gendyn, tiny, tmp_path):
    """Also where the size is no width and what is swept decides in Python."""
    argv = ("--over", "batch_size=8,16", "--sweep", "width=4,8", "--steps", 3, "--repeats", 1)
    assert gendyn("transfer", tiny, *argv, "--out", tmp_path).status == 0
    rows = read_table(tmp_path / "transfer")
    assert len(rows) == 4
    for row in rows:
        levels = [row[f"level{i}"] for i in range(1, 5)]
        assert row["score"] == pytest.approx(sum(levels) / 4, rel=1e-5)


def test_refusals_are_one_sentence(gendyn, tmp_path):
    for argv, message in (
        (("transfer_mpl",), "Did you mean transfer_mlp"),
        (("transfer_mlp", "--over", "breadth=8,16"), "--over takes NAME=VALUES"),
        (("transfer_mlp", "--over", "width=8,wide"), "width takes numbers"),
        (("transfer_mlp", "--over", "width=8,8"), "twice"),
        (("transfer_mlp", "--over", "rule=sp,mup"), "--over takes a size that is a number"),
        (("transfer_mlp", "--sweep", "learning_rate=2^-4..2^-6"), "0 < LOW < HIGH"),
        (("transfer_mlp", "--sweep", "lr=1"), "--sweep takes NAME=VALUES"),
        (("transfer_mlp", "--sweep", "width=8,16"), "at once"),
        (
            ("transfer_mlp", "--sweep", "batch_size=8,16"),
            "batch_size changes the batches of a run; vary it with --over",
        ),
        (("transfer_mlp", "--sweep", "weight_decay=0,0.1"), "a swept hyperparameter is a positive number"),
        (("transfer_mlp", "--sweep", "depth_rule=none,completep"), "sweep once for each word"),
        (("transfer_mlp", "--sweep", "seed=0,1"), "their number is --repeats"),
        (("transfer_mlp", "--repeats", "0"), "--repeats must be at least 1"),
        (("transfer_mlp", "--rule", "mu"), "unknown rule 'mu'"),
        (("transfer_mlp", "--base", "48"), "the base is one of the sizes"),
        (("consistency_digits",), "changes with the step"),
    ):
        result = gendyn("transfer", *argv, "--out", tmp_path / "none")
        assert result.status != 0
        assert message in result.err
        assert result.err.count("\n") == 1
    assert not (tmp_path / "none").exists()
    missing = gendyn("train", "transfer_mlp", "--from-transfer", tmp_path / "none", "--out", tmp_path / "none")
    assert "no finished sweep" in missing.err
