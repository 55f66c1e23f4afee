"""Which parameter lies where: one table from the parameters' axes, followed by optimiser, averages and gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from gendyn.distributed.mesh import AXES, DATA, FSDP, SEQUENCE, TENSOR
from gendyn.tree import paths

RULES: dict[str, str] = {
    "embed": FSDP,
    "conditioning": FSDP,
    "mlp": TENSOR,
    "heads": TENSOR,
}
"""Logical axis of a parameter (`gendyn.parametrization.axes`) -> axis of the mesh; other axes stay whole.

Inside a block the first kernel is cut along its output and the second along its input, so that over "tensor" a block
needs one sum (Shoeybi et al. 2019, "Megatron-LM", arXiv 1909.08053); over "fsdp" each kernel is gathered when used.
Modulations are whole over "tensor": what they scale is.
"""


@dataclass(frozen=True)
class Row:
    """A parameter and its place: `spec` has the mesh axis of every dimension."""

    path: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    spec: tuple[str | None, ...]
    bytes: int
    bytes_per_device: int


@dataclass(frozen=True)
class ShardingTable:
    """One row per parameter: axes of the parameter -> axes of the mesh.

    Vectors stay whole on every device (they are less than a hundredth of a network and each would cost a message); a
    dimension that its mesh axis does not divide stays whole too; no mesh axis is used twice in one parameter. Networks
    without axes are cut over fsdp along the largest dimension that divides.

    Example:
        >>> import jax.numpy as jnp
        >>> from gendyn.distributed import abstract_mesh
        >>> params = {"hidden": jnp.ones((16, 64)), "out": jnp.ones((64, 16)), "bias": jnp.ones(16)}
        >>> axes = {"hidden": ("embed", "mlp"), "out": ("mlp", "embed"), "bias": ("embed",)}
        >>> for row in ShardingTable.of(params, axes, abstract_mesh(fsdp=4, tensor=2)).rows:
        ...     print(row.path, row.spec, row.bytes_per_device)
        bias (None,) 64
        hidden ('fsdp', 'tensor') 512
        out ('tensor', 'fsdp') 512
    """

    mesh: Mesh | AbstractMesh
    rows: tuple[Row, ...]

    @classmethod
    def of(
        cls, params: Any, axes: Any, mesh: Mesh | AbstractMesh, rules: Mapping[str, str] | None = None
    ) -> ShardingTable:
        """The table of parameters, from shapes alone.

        Args:
            params: nested dict of arrays, real or abstract.
            axes: nested dict like it, a name per dimension (`Network.axes`); None where there are none.
            rules: `RULES` unless given.

        Raises:
            ValueError: a rule for a mesh axis that the mesh does not have.
        """
        rules = RULES if rules is None else rules
        if unknown := sorted(set(rules.values()) - set(mesh.axis_names)):
            raise ValueError(
                f"sharding rules name the mesh axis {unknown[0]!r}, but the mesh has {', '.join(mesh.axis_names)}."
            )
        named = dict(paths(axes, is_leaf=lambda node: isinstance(node, tuple))) if axes else {}
        return cls(mesh, tuple(_row(path, leaf, named.get(path, ()), mesh, rules) for path, leaf in paths(params)))

    def shardings(self, tree: Any) -> Any:
        """Shardings of a tree that holds the parameters, or trees like them, anywhere inside: a training state.

        A leaf belongs to the parameter whose path its own path ends with, if the shapes agree; others (step, key,
        factored moments) are whole on every device.
        """
        rows = {tuple(row.path.split("/")): row for row in self.rows}
        longest = max(map(len, rows), default=0)

        def place(path: str, leaf: Any) -> NamedSharding:
            names = tuple(path.split("/"))
            for start in range(max(len(names) - longest, 0), len(names)):
                row = rows.get(names[start:])
                if row is not None and row.shape == tuple(leaf.shape):
                    return NamedSharding(self.mesh, PartitionSpec(*row.spec))
            return NamedSharding(self.mesh, PartitionSpec())

        return jax.tree.unflatten(jax.tree.structure(tree), [place(path, leaf) for path, leaf in paths(tree)])

    def bytes_per_device(self, tree: Any) -> int:
        """Of a (possibly abstract) tree placed by this table."""
        shardings = jax.tree.leaves(self.shardings(tree))
        return sum(
            math.prod(sharding.shard_shape(tuple(leaf.shape))) * leaf.dtype.itemsize
            for leaf, sharding in zip(jax.tree.leaves(tree), shardings)
        )

    def __str__(self) -> str:
        """One aligned line per parameter, and the sum."""
        cells = [("parameter", "shape", "axes", "mesh axes", "bytes per device")]
        for row in self.rows:
            spec = " ".join(axis or "-" for axis in row.spec)
            cells.append((row.path, str(row.shape), " ".join(row.axes), spec, f"{row.bytes_per_device:,}"))
        whole, own = sum(row.bytes for row in self.rows), sum(row.bytes_per_device for row in self.rows)
        cells.append((f"{len(self.rows)} parameters", "", "", "", f"{own:,} of {whole:,}"))
        widths = [max(len(line[i]) for line in cells) for i in range(5)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in cells)


def _row(path: str, leaf: Any, axes: tuple[str, ...], mesh: Any, rules: Mapping[str, str]) -> Row:
    shape = tuple(leaf.shape)
    spec = _spec(shape, axes, mesh, rules) if axes else _largest(shape, mesh)
    size = math.prod(shape) * leaf.dtype.itemsize
    ways = math.prod(mesh.shape[axis] for axis in spec if axis)
    return Row(path, shape, axes, spec, size, size // ways)


def _spec(shape: tuple[int, ...], axes: tuple[str, ...], mesh: Any, rules: Mapping[str, str]) -> tuple[str | None, ...]:
    if len([name for name in axes if name != "layers"]) < 2:
        return (None,) * len(shape)
    spec: list[str | None] = []
    for size, name in zip(shape, axes):
        axis = rules.get(name)
        fits = axis is not None and axis not in spec and mesh.shape[axis] > 1 and size % mesh.shape[axis] == 0
        spec.append(axis if fits else None)
    return tuple(spec)


def _largest(shape: tuple[int, ...], mesh: Any) -> tuple[str | None, ...]:
    divisible = [size if size % mesh.shape[FSDP] == 0 else 0 for size in shape]
    if len(shape) < 2 or not any(divisible) or mesh.shape[FSDP] == 1:
        return (None,) * len(shape)
    best = max(range(len(shape)), key=divisible.__getitem__)
    return tuple(FSDP if i == best else None for i in range(len(shape)))


def gathered(table: jax.Array) -> jax.Array:
    """A parameter made whole on every device before its rows are looked up: cheaper than moving the rows found."""
    mesh = jax.sharding.get_abstract_mesh()
    return table if mesh.empty or mesh.size == 1 else jax.lax.with_sharding_constraint(table, PartitionSpec())


def constrain(x: jax.Array, features: str) -> jax.Array:
    """Say, inside a program for a mesh, that the leading axis of x is the batch and what its last one is; else nothing.

    Layers say it of what they return, with the logical name of their output axis. Without it the compiler lets the cut
    of the weights spread to the activations, and exchanges those between all devices instead of gathering the weights.
    Of three axes the one between is a sequence of tokens: each device of the sequence axis keeps a stretch of it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not set(AXES) <= set(mesh.axis_names) or mesh.size == 1:
        return x
    rows = (DATA, FSDP) if x.shape[0] % (mesh.shape[DATA] * mesh.shape[FSDP]) == 0 else None
    within = RULES.get(features) == TENSOR and x.shape[-1] % mesh.shape[TENSOR] == 0
    cut = x.ndim == 3 and mesh.shape[SEQUENCE] > 1 and x.shape[1] % mesh.shape[SEQUENCE] == 0
    middle = (SEQUENCE,) if cut else (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 2)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(rows, *middle, TENSOR if within else None))


def check_heads(heads: int) -> None:
    """Refuse, while a program is traced, attention heads that the tensor axis cannot share out."""
    mesh = jax.sharding.get_abstract_mesh()
    parts = mesh.shape[TENSOR] if TENSOR in mesh.axis_names else 1
    if heads % parts:
        raise ValueError(
            f"the mesh has tensor={parts}, which does not divide the {heads} attention heads; choose tensor= among the "
            "divisors of heads, or other heads."
        )
