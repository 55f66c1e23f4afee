"""gendyn study as people use it: a table, figures, resuming, an exact model, and what it refuses."""

import pytest

from gendyn.tables import read_table

pytestmark = pytest.mark.system
QUICK = ("--num", 16, "--fine-steps", 8, "--grids", "uniform_lam", "--seeds", 0)


def test_a_run_is_measured_resumed_and_drawn(gendyn, trained, tmp_path):
    first = ("study", trained, *QUICK, "--samplers", "ddim", "ancestral", "--nfe", 3, "--out", tmp_path)
    assert gendyn(*first).status == 0
    before = read_table(tmp_path / "study")
    more = gendyn("study", trained, *QUICK, "--samplers", "ddim", "ancestral", "--nfe", 3, 5, "--out", tmp_path)
    assert more.status == 0, more.err
    rows = read_table(tmp_path / "study")
    assert rows[: len(before)] == before
    assert [(r["sampler"], r["nfe"]) for r in rows[len(before) :]] == [("ddim", 5), ("ancestral", 5)]
    assert all(row["frechet"] > 0 and row["frechet_floor"] > 0 for row in rows)
    assert {row["sampler"] for row in rows if "rmse" in row} == {"ddim"}  # a stochastic plan has no error, but quality
    assert {path.name for path in tmp_path.iterdir()} >= {
        "study.csv", "study.parquet", "study.png", "ranking.png", "frechet.png",
    }  # fmt: skip
    assert "nfe   5  ddim uniform_lam" in more.out


def test_an_exact_model_needs_no_run(gendyn, tmp_path):
    options = ("--samplers", "ddim", "--nfe", 4, "--process", "vp_linear", "--out", tmp_path)
    result = gendyn("study", "oracle:two", *QUICK, *options)
    assert result.status == 0, result.err
    (row,) = read_table(tmp_path / "study")
    assert row["process"] == "vp_linear"
    assert row["sliced_wasserstein_floor"] > 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("oracle:rings",), "unknown oracle 'rings'; choose one of two, ring"),
        (("oracle:two", "--process", "edmm"), "unknown process 'edmm'"),
        (("oracle:two", "--samplers", "ddimm"), "unknown sampler 'ddimm'"),
        (("oracle:two", "--num", 1), "--num must be at least 2"),
        (("oracle:two", "--samplers", "heun", "--grids", "karras", "--nfe", 4), "no cell can be built"),
        (("nowhere",), "nowhere is not a run directory"),
    ],
)
def test_bad_input_is_said_before_anything_runs(gendyn, tmp_path, argv, message):
    result = gendyn("study", *argv, "--out", tmp_path)
    assert result.status != 0
    assert message in result.err
    assert not list(tmp_path.iterdir())


def test_another_study_is_never_overwritten(gendyn, tmp_path):
    options = (*QUICK, "--samplers", "ddim", "--nfe", 3, "--quality", "none", "--out", tmp_path)
    assert gendyn("study", "oracle:two", *options).status == 0
    result = gendyn("study", "oracle:ring", *options)
    assert result.status == 1
    assert "holds a study with another run" in result.err


def test_interrupted_between_cells_it_keeps_what_it_has(gendyn, tmp_path, monkeypatch):
    from gendyn.samplers import study

    def one_then_stop(*args, **kwargs):
        yield next(iter(original(*args, **kwargs)))
        raise KeyboardInterrupt

    original = study.study
    monkeypatch.setattr(study, "study", one_then_stop)
    options = (*QUICK, "--samplers", "ddim", "--nfe", 3, 4, "--quality", "none", "--out", tmp_path)
    result = gendyn("study", "oracle:two", *options)
    assert result.status == 130
    assert "1 rows are kept" in result.out
    monkeypatch.undo()
    assert gendyn("study", "oracle:two", *options).status == 0
    assert len(read_table(tmp_path / "study")) == 2
