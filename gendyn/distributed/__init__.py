"""Devices: one mesh, arrays placed on it by name.

The engine is JAX's own: a program is written for the whole batch, `jax.jit` with `NamedSharding` cuts it over the
mesh, and the same source runs on a laptop's CPU and on a pod. The mesh is a block of data x fsdp x tensor; a
`ShardingTable` says where every parameter lies on it, and optimiser, averages and gradients follow.
"""

from gendyn.distributed.mesh import (
    AXES,
    DATA,
    FSDP,
    TENSOR,
    abstract_mesh,
    check_divisible,
    data_mesh,
    make_mesh,
    parse_mesh,
    place,
    replicated,
    split,
    ways,
)
from gendyn.distributed.sharding import RULES, ShardingTable, check_heads, constrain, gathered

__all__ = [
    "AXES",
    "DATA",
    "FSDP",
    "RULES",
    "TENSOR",
    "ShardingTable",
    "abstract_mesh",
    "check_divisible",
    "check_heads",
    "constrain",
    "data_mesh",
    "gathered",
    "make_mesh",
    "parse_mesh",
    "place",
    "replicated",
    "split",
    "ways",
]
