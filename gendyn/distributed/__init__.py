"""Devices: one mesh, arrays placed on it by name.

The engine is JAX's own: a program is written for the whole batch, `jax.jit` with `NamedSharding` cuts it over the
mesh, and the same source runs on a laptop's CPU and on a pod. The mesh is a block of data x fsdp x tensor x
sequence; a `ShardingTable` says where every parameter lies on it, and optimiser, averages and gradients follow.
Several processes find each other through `Cluster.start`, and fail together through `together`.
"""

from gendyn.distributed.mesh import (
    AXES,
    DATA,
    FSDP,
    SEQUENCE,
    TENSOR,
    abstract_mesh,
    check_divisible,
    data_mesh,
    fetch,
    make_mesh,
    own_blocks,
    parse_mesh,
    place,
    put,
    replicated,
    shares,
    split,
    ways,
)
from gendyn.distributed.processes import TIMEOUT, Cluster, detected, first, together
from gendyn.distributed.sharding import RULES, ShardingTable, check_heads, constrain, gathered

__all__ = [
    "AXES",
    "DATA",
    "FSDP",
    "RULES",
    "SEQUENCE",
    "TENSOR",
    "TIMEOUT",
    "Cluster",
    "ShardingTable",
    "abstract_mesh",
    "check_divisible",
    "check_heads",
    "constrain",
    "data_mesh",
    "detected",
    "fetch",
    "first",
    "gathered",
    "make_mesh",
    "own_blocks",
    "parse_mesh",
    "place",
    "put",
    "replicated",
    "shares",
    "split",
    "together",
    "ways",
]
