"""Figures as files that are either whole or absent, on local disks and in buckets."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from etils import epath

from gendyn.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(path: epath.PathLike, figure: Figure, *, dpi: int = 150) -> epath.Path:
    """Write a figure; the ending of the name chooses the format (.png, .pdf, .svg). Returns the path.

    It is drawn in memory first and appears under its name only when complete.
    """
    path = epath.Path(path)
    stream = io.BytesIO()
    figure.savefig(stream, format=path.suffix.lstrip(".") or "png", dpi=dpi, bbox_inches="tight")
    write_atomic(path, stream.getvalue())
    return path
