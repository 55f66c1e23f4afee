"""The mesh a run lives on, and where its batches go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")
"""Copies of the model; rows of one copy's parameters; features inside a layer. A batch is cut over the first two."""


def make_mesh(
    *, data: int | None = None, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The devices (all of them unless given) as a block of data x fsdp x tensor.

    Args:
        data: what the others leave, unless given.

    Raises:
        ValueError: sizes that do not multiply to the number of devices.

    Example:
        >>> dict(make_mesh(devices=jax.devices()[:1]).shape)
        {'data': 1, 'fsdp': 1, 'tensor': 1}
    """
    devices = jax.devices() if devices is None else list(devices)
    rest = fsdp * tensor
    data = max(len(devices) // rest, 1) if data is None and rest else data
    if min(fsdp, tensor, data or 0) < 1 or (data or 0) * rest != len(devices):
        raise ValueError(
            f"a mesh of data={data} x fsdp={fsdp} x tensor={tensor} does not fit {len(devices)} "
            f"device{'s' * (len(devices) != 1)}; choose sizes that multiply to it, or use another number of devices."
        )
    return jax.make_mesh((data or 1, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Every device (or those given) holds the model, the batch is split."""
    return make_mesh(devices=devices)


def abstract_mesh(*, data: int = 1, fsdp: int = 1, tensor: int = 1) -> AbstractMesh:
    """A mesh of devices that need not exist: for tables of what a larger machine would hold."""
    return AbstractMesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def parse_mesh(text: str) -> dict[str, int]:
    """Sizes by name, for `make_mesh` and `abstract_mesh`.

    >>> parse_mesh("fsdp=4,tensor=2")
    {'fsdp': 4, 'tensor': 2}
    """
    sizes: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, size = part.partition("=")
        if name not in AXES or name in sizes or not size.isdigit() or int(size) < 1:
            raise ValueError(f"a mesh is written as sizes of {', '.join(AXES)}, as fsdp=4,tensor=2; got {part!r}.")
        sizes[name] = int(size)
    return sizes


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The leading axis cut over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def ways(mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts a batch is cut."""
    return mesh.shape[DATA] * mesh.shape[FSDP]


def check_divisible(batch_size: int, mesh: Mesh | AbstractMesh, accumulate: int = 1) -> None:
    """Refuse a batch whose micro-batches the mesh cannot share out evenly, before anything is compiled."""
    parts = ways(mesh) * accumulate
    if batch_size % parts:
        lower = batch_size - batch_size % parts
        near = f"{lower} or {lower + parts}" if lower else f"{parts}"
        over = f"{ways(mesh)} devices" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
        raise ValueError(f"batch_size {batch_size} does not divide over {over}; use {near}, or fewer devices.")


def place(batches: Iterator[dict[str, Any]], mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
    """Each process's rows become one global array per entry, cut over data and fsdp; one batch is copied ahead.

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
