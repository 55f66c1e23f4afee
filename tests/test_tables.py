"""Tables: types survive, empty entries stay empty, damage is said."""

import pytest

from gendyn.tables import read_table, write_table


def test_rows_come_back_with_their_types_and_without_what_they_lacked(tmp_path):
    rows = [{"name": "a", "n": 3, "clean": True}, {"name": "b", "error": 0.1}]
    write_table(tmp_path / "t", rows, columns=("error",))
    assert read_table(tmp_path / "t") == rows
    assert (tmp_path / "t.csv").read_text().splitlines()[:2] == ["error,name,n,clean", ",a,3,True"]


def test_no_table_is_an_empty_one_and_a_damaged_one_is_named(tmp_path):
    assert read_table(tmp_path / "t") == []
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"t\.parquet is not a readable Parquet table"):
        read_table(tmp_path / "t")
