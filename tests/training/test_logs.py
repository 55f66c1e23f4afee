"""Metrics on disk: whole rows only, each step once; and the progress line where there is no terminal."""

import io
import json

import pytest
from rich.console import Console

from gendyn.training import MetricsLog, ProgressLine, read_metrics


def rows(folder):
    return [row["step"] for row in read_metrics(folder)]


def test_rows_come_back(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(5, {"loss": 0.1})
    log.write(10, {"loss": 1 / 3})
    log.close()
    assert read_metrics(tmp_path) == [{"step": 5, "loss": 0.1}, {"step": 10, "loss": 1 / 3}]
    assert list((tmp_path / "tensorboard").iterdir())


def test_rows_beyond_the_checkpoint_are_dropped_and_those_before_kept(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "loss": 1.0}) + "\n" for s in (5, 10, 15)))
    MetricsLog(tmp_path, start=10).close()
    assert rows(tmp_path) == [5, 10]
    MetricsLog(tmp_path, start=0).close()
    assert rows(tmp_path) == []


def test_half_a_line_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n{"step": 10, "lo')
    assert rows(tmp_path) == [5]


def test_rows_survive_a_crash_while_they_are_rewritten(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n')
    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(tmp_path, start=5)
    assert rows(tmp_path) == [5]


def crash(*given):
    raise KeyboardInterrupt


def test_no_metrics_are_no_rows(tmp_path):
    assert read_metrics(tmp_path) == []


def test_last_line_is_printed_without_a_terminal(capsys):
    with ProgressLine(20, 0, 16, Console(file=io.StringIO(), force_terminal=False)) as progress:
        progress.advance(1)
        progress.note(20, {"loss": 0.25})
    assert "step 20/20  loss 0.2500" in capsys.readouterr().err
