"""The list of sources: names for experiment files and for the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gendyn.data.digits import digits
from gendyn.data.images import image_folder
from gendyn.data.parquet import image_parquet
from gendyn.data.shards import shards
from gendyn.data.sources import Source, npz
from gendyn.data.synthetic import synthetic2d

SOURCES: Mapping[str, Callable[..., Source]] = {
    "digits": digits,
    "synthetic2d": synthetic2d,
    "image_parquet": image_parquet,
    "image_folder": image_folder,
    "npz": npz,
    "shards": shards,
}


def open_source(source: str, /, **options: Any) -> Source:
    """The named source. Its name and options describe a data set without touching it; this call opens it.

    >>> open_source("synthetic2d", name="moons", n=10)
    Arrays(10 of [2], float32, num_classes=2)
    """
    if source not in SOURCES:
        raise ValueError(f"no source {source!r}, choose one of {sorted(SOURCES)}")
    return SOURCES[source](**options)
