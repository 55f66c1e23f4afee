"""Files that are either whole or absent."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(path: str | os.PathLike[str], figure: Figure, *, dpi: int = 150) -> pathlib.Path:
    """Write a figure; the ending of the name chooses the format (.png, .pdf, .svg). Returns the path."""
    kind = pathlib.Path(path).suffix.lstrip(".") or "png"
    return write_whole(path, lambda file: figure.savefig(file, format=kind, dpi=dpi, bbox_inches="tight"))


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> pathlib.Path:
    """Let `write` fill a file that appears under its name only when complete.

    It is written beside its destination and renamed (`os.replace` is atomic within a file system), so a reader, or a
    run that is killed meanwhile, sees the old file or the new one. If `write` fails, nothing is left behind.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
