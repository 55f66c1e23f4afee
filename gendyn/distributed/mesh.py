"""The mesh a run lives on, and where its arrays go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """One axis, "data", over all devices (or those given): every device holds the model, the batch is split."""
    devices = jax.devices() if devices is None else list(devices)
    return Mesh(np.array(devices), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The leading axis cut over the data axis."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def check_divisible(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Refuse a batch whose micro-batches the data axis cannot share out evenly, before anything is compiled."""
    ways = mesh.shape[DATA] * accumulate
    if batch_size % ways:
        lower = batch_size - batch_size % ways
        near = f"{lower} or {lower + ways}" if lower else f"{ways}"
        over = f"{mesh.shape[DATA]} devices" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
        raise ValueError(f"batch_size {batch_size} does not divide over {over}; use {near}, or fewer devices.")


def place(batches: Iterator[dict[str, Any]], mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
    """Each process's rows become one global array per entry, cut over the data axis; one batch is copied ahead.

    The copy to the devices is asynchronous, so the next batch travels while the current one is computed.
    """
    sharding = split(mesh)

    def put(batch: dict[str, Any]) -> dict[str, jax.Array]:
        return {name: jax.make_array_from_process_local_data(sharding, np.asarray(v)) for name, v in batch.items()}

    ahead: dict[str, jax.Array] | None = None
    for batch in batches:
        current, ahead = ahead, put(batch)
        if current is not None:
            yield current
    if ahead is not None:
        yield ahead
