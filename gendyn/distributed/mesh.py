"""The mesh a run lives on, and where its batches go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

DATA, FSDP, TENSOR, SEQUENCE = AXES = ("data", "fsdp", "tensor", "sequence")
"""Copies of the model; rows of one copy's parameters; features inside a layer; tokens of an example.

A batch is cut over the first two."""


def make_mesh(
    *,
    data: int | None = None,
    fsdp: int = 1,
    tensor: int = 1,
    sequence: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """The devices (all of them, of all processes, unless given) as a block of data x fsdp x tensor x sequence.

    Where some devices are joined by a slower network (slices of TPUs, nodes of GPUs), copies of the model lie on its
    two sides, as far as there are enough of them; then the parts of one copy; what is cut inside an example last.

    Args:
        data: what the others leave, unless given.

    Raises:
        ValueError: sizes that do not multiply to the number of devices.

    Example:
        >>> dict(make_mesh(devices=jax.devices()[:1]).shape)
        {'data': 1, 'fsdp': 1, 'tensor': 1, 'sequence': 1}
    """
    devices = jax.devices() if devices is None else list(devices)
    rest = fsdp * tensor * sequence
    data = max(len(devices) // rest, 1) if data is None and rest else data
    sizes = (data or 0, fsdp, tensor, sequence)
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        wanted = " x ".join(f"{name}={size}" for name, size in zip(AXES, sizes))
        raise ValueError(
            f"a mesh of {wanted} does not fit {len(devices)} "
            f"device{'s' * (len(devices) != 1)}; choose sizes that multiply to it, or use another number of devices."
        )
    auto = (AxisType.Auto,) * len(AXES)
    groups, of_processes = _groups(devices)
    if groups == 1:
        return jax.make_mesh(sizes, AXES, axis_types=auto, devices=devices)
    outer = _outer(sizes, groups)
    inner = tuple(size // out for size, out in zip(sizes, outer))
    block = mesh_utils.create_hybrid_device_mesh(inner, outer, devices, process_is_granule=of_processes)
    return Mesh(block, AXES, axis_types=auto)


def _groups(devices: Sequence[jax.Device]) -> tuple[int, bool]:
    """(number of groups that a slower network joins, whether a group is a process rather than a slice of a TPU)."""
    slices = {getattr(device, "slice_index", None) for device in devices}
    if len(slices) > 1:
        return len(slices), False
    processes = {device.process_index for device in devices}
    return (1, False) if devices[0].platform == "tpu" else (len(processes), True)


def _outer(sizes: tuple[int, ...], groups: int) -> tuple[int, ...]:
    """How many of each axis's parts lie across the slower network: of the first axes as many as they have.

    >>> _outer((4, 2, 1, 1), 8), _outer((1, 8, 1, 1), 2)
    ((4, 2, 1, 1), (1, 2, 1, 1))
    """
    outer = []
    for size in sizes:
        outer.append(math.gcd(groups, size))
        groups //= outer[-1]
    return tuple(outer)


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Every device (or those given) holds the model, the batch is split."""
    return make_mesh(devices=devices)


def abstract_mesh(*, data: int = 1, fsdp: int = 1, tensor: int = 1, sequence: int = 1) -> AbstractMesh:
    """A mesh of devices that need not exist: for tables of what a larger machine would hold."""
    return AbstractMesh((data, fsdp, tensor, sequence), AXES, axis_types=(AxisType.Auto,) * len(AXES))


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


def shares(mesh: Mesh) -> tuple[int, ...]:
    """Which of the `ways(mesh)` equal parts of a batch the devices of this process hold, in order.

    On a tensor or sequence axis across processes, several hold the same part.
    """
    places = split(mesh).addressable_devices_indices_map((ways(mesh),))
    return tuple(sorted({(index[0].start or 0) if index else 0 for index in places.values()}))  # type: ignore[index]


def own_blocks(mesh: Mesh) -> tuple[tuple[int, int], ...]:
    """This process's rows of a batch as blocks: (j, J) stands for the j-th of J equal parts. Mostly one block."""
    own = shares(mesh)
    first, size, total = own[0], len(own), ways(mesh)
    if own == tuple(range(first, first + size)) and first % size == 0 and total % size == 0:
        return ((first // size, total // size),)
    return tuple((share, total) for share in own)


def place(batches: Iterator[dict[str, Any]], mesh: Mesh) -> Iterator[dict[str, jax.Array]]:
    """Each process's rows (in the order of `shares`) become one global array per entry, cut over data and fsdp.

    One batch is copied ahead: the copy to the devices is asynchronous, so the next one travels while the current one is
    computed.
    """
    sharding, own, parts = split(mesh), shares(mesh), ways(mesh)

    def put(value: Any) -> jax.Array:
        rows = np.asarray(value)
        size = len(rows) // len(own)

        def of_device(index: Any) -> np.ndarray:
            start = own.index((index[0].start or 0) // size) * size
            return rows[start : start + size]

        return jax.make_array_from_callback((parts * size, *rows.shape[1:]), sharding, of_device)

    ahead: dict[str, jax.Array] | None = None
    for batch in batches:
        current, ahead = ahead, {name: put(value) for name, value in batch.items()}
        if current is not None:
            yield current
    if ahead is not None:
        yield ahead


def put(tree: Any, sharding: Any) -> Any:
    """`jax.device_put` that also takes every process's own copy of an array, or of keys, to a mesh of several."""

    def one(leaf: Any, to: Any) -> Any:
        if to.is_fully_addressable:
            return jax.device_put(leaf, to)
        if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
            words = jax.device_put(np.asarray(jax.random.key_data(leaf)), to)
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        return jax.device_put(np.asarray(leaf), to)

    return jax.tree.map(one, tree, jax.tree.broadcast(sharding, tree))


def fetch(array: jax.Array) -> np.ndarray:
    """The whole array on the host, in every process."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)
