"""Tables: rows as dicts, on disk as Parquet for programs and CSV for people, both whole or absent."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from gendyn.files import write_atomic


def write_table(path: epath.PathLike, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write PATH.parquet and PATH.csv; a row that lacks a column is empty there.

    Args:
        path: without an ending.
        columns: these first, the others in the order of their appearance.
    """
    import pyarrow
    import pyarrow.parquet

    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    filled = [{name: row.get(name) for name in names} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(filled)
    binary = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(filled) if filled else pyarrow.table({}), binary)
    write_atomic(f"{path}.csv", text.getvalue())
    write_atomic(f"{path}.parquet", binary.getvalue())


def read_table(path: epath.PathLike) -> list[dict[str, Any]]:
    """The rows of PATH.parquet with their types, without empty entries; [] if there is no such file.

    Raises:
        ValueError: a file that is no table.
    """
    import pyarrow
    import pyarrow.parquet

    file = epath.Path(f"{path}.parquet")
    if not file.exists():
        return []
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(file.read_bytes()))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a readable Parquet table ({error}); remove it to begin anew.") from None
    return [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
