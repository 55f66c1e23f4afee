"""Files that are either whole or absent, on local disks and in buckets."""

from __future__ import annotations

import io
import json
import os
from typing import Any

import numpy as np
from etils import epath


def write_atomic(path: epath.PathLike, content: bytes | str) -> None:
    """Write beside the target and rename: a reader or a crash never sees half a file."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        if isinstance(content, str):
            temporary.write_text(content)
        else:
            temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: epath.PathLike, value: Any) -> None:
    """Indented JSON, atomically; values json does not know are written as their repr."""
    write_atomic(path, json.dumps(value, indent=2, default=repr) + "\n")


def write_npz(path: epath.PathLike, **arrays: np.ndarray) -> None:
    """A compressed npz, atomically."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    write_atomic(path, stream.getvalue())


def read_json(path: epath.PathLike) -> Any:
    """JSON, or one sentence about why not."""
    path = epath.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing.")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error.msg} at line {error.lineno}); restore it or remove it."
        ) from None
