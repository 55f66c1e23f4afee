"""gendyn coordcheck: a table, a figure, a verdict as exit status, and one sentence for bad input."""

import pytest

from gendyn.tables import read_table

pytestmark = pytest.mark.system
SMALL = ("--over", "width=8,16", "--updates", 2, "--repeats", 1, "--depth", 1, "--base-depth", 1, "--batch-size", 16)


def test_a_check_leaves_its_table_and_figure(gendyn, tmp_path):
    result = gendyn("coordcheck", "transfer_mlp", *SMALL, "--base-width", 8, "--out", tmp_path)
    assert "slopes of log2(change) in log2(width)" in result.out
    rows = read_table(tmp_path / "coordcheck")
    assert {(row["width"], row["step"]) for row in rows} == {(8, 1), (8, 2), (16, 1), (16, 2)}
    assert (tmp_path / "coordcheck.png").stat().st_size > 5000
    assert result.status == int("beyond their limits" in result.out)


def test_refusals_are_one_sentence(gendyn, tmp_path):
    for argv, message in (
        (("transfer_mpl",), "Did you mean transfer_mlp"),
        (("transfer_mlp", "--over", "breadth=8,16"), "--over names a field of the experiment"),
        (("transfer_mlp", "--over", "width=8,wide"), "--over takes whole numbers"),
        (("transfer_mlp", "--over", "width=8"), "at least two"),
        (("transfer_mlp", "--updates", "0"), "--updates and --repeats must be at least 1"),
        (("transfer_mlp", "--rule", "mu"), "unknown rule 'mu'"),
    ):
        result = gendyn("coordcheck", *argv, "--out", tmp_path / "none")
        assert result.status != 0
        assert message in result.err
        assert result.err.count("\n") == 1
    assert not (tmp_path / "none").exists()
