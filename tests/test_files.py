"""Files that are whole or absent."""

import json

import numpy as np
import pytest

from gendyn.files import read_json, write_atomic, write_json, write_npz


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["text\n", b"\x00\xff"])
def test_written_content_comes_back(tmp_path, content):
    path = tmp_path / "new" / "folder" / "file"
    write_atomic(path, content)
    assert (path.read_text() if isinstance(content, str) else path.read_bytes()) == content
    assert names(path.parent) == ["file"]


def test_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_atomic(tmp_path / "file", "old")

    def crash(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_json_comes_back_and_the_unknown_as_its_repr(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, 2.5, None], "process": object})
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None], "process": repr(object)}


def test_value_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {(1, 2): "tuples are no keys"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def test_missing_and_damaged_json_are_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.json is missing"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{\n"a": ')
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON \(.* at line 2\)"):
        read_json(tmp_path / "a.json")


def test_npz_is_the_same_bytes_every_time(tmp_path):
    arrays = {"samples": np.arange(6.0).reshape(2, 3), "label": np.array([1, 0])}
    for name in "ab":
        write_npz(tmp_path / f"{name}.npz", **arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as found:
        assert {name: found[name].tolist() for name in found.files} == {k: v.tolist() for k, v in arrays.items()}
